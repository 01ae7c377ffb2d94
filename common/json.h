#pragma once
// A small JSON value: what our own documents need, in insertion order, so that output is stable. Numbers keep
// their kind: a 64-bit integer is never rounded through a double. Not a finite double: null.
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace hsm {

class Json {
 public:
  using Member = std::pair<std::string, Json>;

  Json() = default;  // null
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : value_(static_cast<int64_t>(value)) {}
  Json(long value) : value_(static_cast<int64_t>(value)) {}
  Json(long long value) : value_(static_cast<int64_t>(value)) {}
  Json(unsigned value) : value_(static_cast<uint64_t>(value)) {}
  Json(unsigned long value) : value_(static_cast<uint64_t>(value)) {}
  Json(unsigned long long value) : value_(static_cast<uint64_t>(value)) {}
  Json(double value) : value_(value) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  template <typename Value>
  Json(const std::optional<Value>& value) {  // absent = null
    if (value) *this = Json(*value);
  }

  static Json Array(std::vector<Json> items = {});
  static Json Object(std::initializer_list<Member> members = {});
  // INVALID_ARGUMENT; strict RFC 8259, at most `depth_max` levels.
  static absl::StatusOr<Json> Parse(std::string_view text, int depth_max = 32);

  bool IsNull() const { return std::holds_alternative<std::monostate>(value_); }
  bool IsObject() const { return std::holds_alternative<std::vector<Member>>(value_); }
  bool IsArray() const { return std::holds_alternative<std::vector<Json>>(value_); }

  void Add(std::string key, Json value);  // to an object (null becomes one); replaces an equal key
  void Add(Json item);                    // to an array (null becomes one)

  const Json* Find(std::string_view key) const;  // null pointer if absent or not an object
  const std::vector<Json>& items() const;        // empty unless an array
  const std::vector<Member>& members() const;    // empty unless an object
  std::optional<std::string> AsString() const;
  std::optional<bool> AsBool() const;
  std::optional<int64_t> AsInteger() const;
  std::optional<double> AsNumber() const;  // any number

  // indent < 0: one line.
  std::string Dump(int indent = -1) const;

 private:
  void DumpTo(std::string& out, int indent, int depth) const;
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, std::vector<Json>,
               std::vector<Member>>
      value_;
};

}  // namespace hsm
