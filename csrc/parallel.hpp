#pragma once
// A loop over contiguous parts on short-lived threads.

#include <algorithm>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace tresse {

inline int default_threads() noexcept {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
}

// Calls work(part, begin, end) for `parts` contiguous parts of [0, size), each on its own thread.
// The first exception is rethrown after all threads have ended.
template <class Work>
void parallel_parts(std::int64_t size, int parts, const Work& work) {
  std::vector<std::exception_ptr> errors(parts);
  const auto run = [&](int part) noexcept {
    try {
      work(part, size * part / parts, size * (part + 1) / parts);
    } catch (...) {
      errors[part] = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int part = 1; part < parts; ++part) threads.emplace_back(run, part);
    run(0);
  }
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace tresse
