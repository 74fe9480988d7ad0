#pragma once
// Interleaves the rows of several streams, each with a fixed number of rows. Among the first n rows
// each stream has its share, give or take one row per stream, and exactly its share at the end.
// Stateless (the nested floor rule).

#include <cstdint>
#include <vector>

#include "random.hpp"

namespace tresse {

class Mixture {
 public:
  struct Slot {
    std::size_t stream;
    std::int64_t row;  // within the stream
  };

  void add(std::int64_t rows) { ends_.push_back(num_rows() + rows); }
  std::int64_t num_rows() const noexcept { return ends_.empty() ? 0 : ends_.back(); }

  // Of the first n rows of streams 0 to k, floor(n * share) belong to streams 0 to k - 1.
  Slot slot(std::int64_t row) const noexcept {
    for (auto k = ends_.size() - 1; k > 0; --k) {
      const auto before = share(row, k), after = share(row + 1, k);
      if (before == after) return {k, row - before};
      row = before;
    }
    return {0, row};
  }

 private:
  std::int64_t share(std::int64_t n, std::size_t k) const noexcept {
    return static_cast<std::int64_t>(static_cast<uint128>(n) * ends_[k - 1] / ends_[k]);
  }

  std::vector<std::int64_t> ends_;  // rows of streams 0 to k
};

}  // namespace tresse
