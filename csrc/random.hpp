#pragma once
// Counter-based random numbers: a draw is a hash of its purpose and place, without any state.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>

namespace tresse {

__extension__ using uint128 = unsigned __int128;

// The purpose of a draw. The numbers are part of the definition of every row.
enum class Domain : std::uint64_t { order = 1, draw = 2, language_order = 3, row_order = 4, words = 5 };

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
constexpr std::uint64_t mix(std::uint64_t z) noexcept {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

constexpr std::uint64_t fold(std::uint64_t hash, std::uint64_t word) noexcept {
  return mix((hash ^ word) + 0x9e3779b97f4a7c15u);
}

template <class... Words>
constexpr std::uint64_t hash_words(Words... words) noexcept {
  std::uint64_t hash = 0;
  ((hash = fold(hash, static_cast<std::uint64_t>(words))), ...);
  return hash;
}

// Maps a hash to [0, n) by the high word of a product, without a division.
constexpr std::uint64_t bounded(std::uint64_t hash, std::uint64_t n) noexcept {
  return static_cast<std::uint64_t>(static_cast<uint128>(hash) * n >> 64);
}

// A pseudo-random bijection of [0, n): a mixed-radix Feistel network of 6 half rounds over the
// digits low < a and high < b, with a = ceil(sqrt n) and b = ceil(n / a). An image of n or more
// (fewer than a are) is mapped again.
class Permutation {
 public:
  static constexpr int kHalfRounds = 6;

  Permutation(std::uint64_t n, std::uint64_t key) noexcept : size_(n), a_(ceil_sqrt(n)) {
    b_ = n == 0 ? 0 : (n + a_ - 1) / a_;
    for (int round = 0; round < kHalfRounds; ++round)
      keys_[round] = fold(key, static_cast<std::uint64_t>(round));
  }

  std::uint64_t size() const noexcept { return size_; }

  // Returns the image of i, which must be less than size().
  std::uint64_t operator()(std::uint64_t i) const noexcept { return walk(i / a_, i % a_); }

  // Writes the images of first, first + 1, ... Several are computed side by side, which overlaps
  // their chains of operations.
  void map(std::uint64_t first, std::span<std::int64_t> out) const noexcept {
    constexpr std::size_t kLanes = 8;
    std::uint64_t high = first / a_, low = first % a_;
    for (; !out.empty(); out = out.subspan(std::min(kLanes, out.size()))) {
      std::array<std::uint64_t, kLanes> lows, highs;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        lows[lane] = low;
        highs[lane] = high;
        if (++low == a_) low = 0, ++high;
      }
      for (int round = 0; round < kHalfRounds; round += 2)
        for (std::size_t lane = 0; lane < kLanes; ++lane)
          double_round(round, highs[lane], lows[lane]);
      for (std::size_t lane = 0; lane < std::min(kLanes, out.size()); ++lane) {
        const auto image = highs[lane] * a_ + lows[lane];
        out[lane] =
            static_cast<std::int64_t>(image < size_ ? image : walk(highs[lane], lows[lane]));
      }
    }
  }

 private:
  static std::uint64_t ceil_sqrt(std::uint64_t n) noexcept {
    auto root = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(n)));
    while (root * root < n) ++root;
    while (root > 1 && (root - 1) * (root - 1) >= n) --root;
    return root;
  }

  void double_round(int round, std::uint64_t& high, std::uint64_t& low) const noexcept {
    low += bounded(fold(keys_[round], high), a_);
    low -= low >= a_ ? a_ : 0;
    high += bounded(fold(keys_[round + 1], low), b_);
    high -= high >= b_ ? b_ : 0;
  }

  std::uint64_t walk(std::uint64_t high, std::uint64_t low) const noexcept {
    while (true) {
      for (int round = 0; round < kHalfRounds; round += 2) double_round(round, high, low);
      if (const auto image = high * a_ + low; image < size_) return image;
    }
  }

  std::uint64_t size_, a_, b_;
  std::array<std::uint64_t, kHalfRounds> keys_;
};

}  // namespace tresse
