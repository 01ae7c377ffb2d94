#pragma once
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define HSM_RETURN_IF_ERROR(expression)                                       \
  do {                                                                        \
    if (::absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define HSM_CONCAT_INNER_(a, b) a##b
#define HSM_CONCAT_(a, b) HSM_CONCAT_INNER_(a, b)
#define HSM_ASSIGN_OR_RETURN(left, expression) \
  HSM_ASSIGN_OR_RETURN_(HSM_CONCAT_(status_or_, __LINE__), left, expression)
#define HSM_ASSIGN_OR_RETURN_(result, left, expression) \
  auto result = (expression);                           \
  if (!result.ok()) return std::move(result).status();  \
  left = *std::move(result)
