#include "common/json.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/error.h"

namespace hsm {
namespace {

using External = nlohmann::ordered_json;

Json Convert(const External& in) {
  switch (in.type()) {
    case External::value_t::boolean:
      return in.get<bool>();
    case External::value_t::number_integer:
      return in.get<int64_t>();
    case External::value_t::number_unsigned:
      return in.get<uint64_t>();
    case External::value_t::number_float:
      return in.get<double>();
    case External::value_t::string:
      return in.get<std::string>();
    case External::value_t::array: {
      std::vector<Json> items;
      for (const External& item : in) items.push_back(Convert(item));
      return Json::Array(std::move(items));
    }
    case External::value_t::object: {
      Json out = Json::Object();
      for (const auto& [key, value] : in.items()) out.Add(key, Convert(value));
      return out;
    }
    default:
      return nullptr;
  }
}

void DumpString(std::string& out, const std::string& text) {
  out += External(text).dump(-1, ' ', false, External::error_handler_t::replace);
}

void DumpDouble(std::string& out, double value) {
  out += std::isfinite(value) ? External(value).dump() : "null";
}

}  // namespace

Json Json::Array(std::vector<Json> items) {
  Json out;
  out.value_ = std::move(items);
  return out;
}

Json Json::Object(std::initializer_list<Member> members) {
  Json out;
  out.value_ = std::vector<Member>(members);
  return out;
}

absl::StatusOr<Json> Json::Parse(std::string_view text, int depth_max) {
  bool too_deep = false;
  auto watch = [&](int depth, External::parse_event_t, External&) {
    too_deep |= depth > depth_max;
    return !too_deep;
  };
  // nlohmann's parser keeps its own stack; Convert below recurses, so depth is bounded before it runs.
  External parsed = External::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (too_deep) return Error(v1::REASON_INVALID_ARGUMENT, "JSON is nested too deeply");
  if (parsed.is_discarded()) return Error(v1::REASON_INVALID_ARGUMENT, "text is not JSON");
  return Convert(parsed);
}

void Json::Add(std::string key, Json value) {
  if (IsNull()) value_ = std::vector<Member>();
  auto& members = std::get<std::vector<Member>>(value_);
  for (Member& member : members) {
    if (member.first == key) {
      member.second = std::move(value);
      return;
    }
  }
  members.emplace_back(std::move(key), std::move(value));
}

void Json::Add(Json item) {
  if (IsNull()) value_ = std::vector<Json>();
  std::get<std::vector<Json>>(value_).push_back(std::move(item));
}

const Json* Json::Find(std::string_view key) const {
  for (const Member& member : members()) {
    if (member.first == key) return &member.second;
  }
  return nullptr;
}

const std::vector<Json>& Json::items() const {
  static const auto* empty = new std::vector<Json>();
  auto* items = std::get_if<std::vector<Json>>(&value_);
  return items != nullptr ? *items : *empty;
}

const std::vector<Json::Member>& Json::members() const {
  static const auto* empty = new std::vector<Member>();
  auto* members = std::get_if<std::vector<Member>>(&value_);
  return members != nullptr ? *members : *empty;
}

std::optional<std::string> Json::AsString() const {
  auto* text = std::get_if<std::string>(&value_);
  return text != nullptr ? std::optional(*text) : std::nullopt;
}

std::optional<bool> Json::AsBool() const {
  auto* value = std::get_if<bool>(&value_);
  return value != nullptr ? std::optional(*value) : std::nullopt;
}

std::optional<int64_t> Json::AsInteger() const {
  if (auto* value = std::get_if<int64_t>(&value_)) return *value;
  if (auto* value = std::get_if<uint64_t>(&value_); value != nullptr && *value <= INT64_MAX) {
    return static_cast<int64_t>(*value);
  }
  return std::nullopt;
}

std::optional<double> Json::AsNumber() const {
  if (auto* value = std::get_if<double>(&value_)) return *value;
  if (auto* value = std::get_if<int64_t>(&value_)) return static_cast<double>(*value);
  if (auto* value = std::get_if<uint64_t>(&value_)) return static_cast<double>(*value);
  return std::nullopt;
}

std::string Json::Dump(int indent) const {
  std::string out;
  DumpTo(out, indent, 0);
  return out;
}

void Json::DumpTo(std::string& out, int indent, int depth) const {
  auto line = [&](int level) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<size_t>(indent * level), ' ');
  };
  if (IsNull()) {
    out += "null";
  } else if (auto* flag = std::get_if<bool>(&value_)) {
    out += *flag ? "true" : "false";
  } else if (auto* number = std::get_if<int64_t>(&value_)) {
    out += std::to_string(*number);
  } else if (auto* number = std::get_if<uint64_t>(&value_)) {
    out += std::to_string(*number);
  } else if (auto* number = std::get_if<double>(&value_)) {
    DumpDouble(out, *number);
  } else if (auto* text = std::get_if<std::string>(&value_)) {
    DumpString(out, *text);
  } else if (IsArray()) {
    out += '[';
    for (size_t i = 0; i < items().size(); ++i) {
      if (i > 0) out += ',';
      line(depth + 1);
      items()[i].DumpTo(out, indent, depth + 1);
    }
    if (!items().empty()) line(depth);
    out += ']';
  } else {
    out += '{';
    for (size_t i = 0; i < members().size(); ++i) {
      if (i > 0) out += ',';
      line(depth + 1);
      DumpString(out, members()[i].first);
      out += indent < 0 ? ":" : ": ";
      members()[i].second.DumpTo(out, indent, depth + 1);
    }
    if (!members().empty()) line(depth);
    out += '}';
  }
}

}  // namespace hsm
