#pragma once
// Counts the targets among the tokens of a document, where only some languages count.

#include <algorithm>
#include <cstdint>
#include <span>

#include "stream.hpp"

namespace tresse {

// Returns the number of targets among tokens [begin, end) of a document.
inline std::int64_t count_targets(std::span<const Run> runs, std::int64_t begin,
                                  std::int64_t end) noexcept {
  std::int64_t targets = 0, start = 0;
  for (const auto& run : runs) {
    const auto stop = start + run.length;
    if (run.counted)
      targets += std::max<std::int64_t>(std::min<std::int64_t>(stop, end) - std::max(start, begin), 0);
    start = stop;
  }
  return targets;
}

// Returns the n-th target of a document from token `begin` on; n counts from 1.
inline std::int64_t find_target(std::span<const Run> runs, std::int64_t begin, std::int64_t n) {
  std::int64_t start = 0;
  for (const auto& run : runs) {
    const auto stop = start + run.length, first = std::max(start, begin);
    if (run.counted && first < stop) {
      if (n <= stop - first) return first + n - 1;
      n -= stop - first;
    }
    start = stop;
  }
  throw_contradiction("a document has fewer targets than were counted");
}

}  // namespace tresse
