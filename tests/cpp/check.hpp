// What the tests of the binding say with.
#pragma once

#include <cstdlib>
#include <cstring>

#include <ckpt.hpp>

#include "../c/check.h"

// The call throws a libckpt::Error of this status, whose message says this.
template <typename Call>
void throws(Call&& call, libckpt::Status status, const char* text) {
  try {
    call();
  } catch (const libckpt::Error& error) {
    if (error.status() == status && std::strstr(error.what(), text) != nullptr) return;
    std::fprintf(stderr, "thrown: %s: %s\n", libckpt::status_name(error.status()), error.what());
    std::fprintf(stderr, "expected: %s: ...%s...\n", libckpt::status_name(status), text);
    std::exit(1);
  }
  std::fprintf(stderr, "nothing thrown; expected %s: ...%s...\n", libckpt::status_name(status), text);
  std::exit(1);
}
