#pragma once
// Where a token of an endless stream lies: its epoch, its document, its offset in the document.

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "table_cache.hpp"
#include "parallel.hpp"
#include "stream.hpp"

namespace tresse {

struct Location {
  std::int64_t epoch, position;  // of the document, in the epoch's order
  std::int64_t offset;           // of the token, in the document
};

// Tokens before every 64th document of an epoch's order, and in all of them.
class EpochTable {
 public:
  static constexpr std::int64_t kStride = 64;

  // Taken from what is kept, if it is of this stream; else built, and kept.
  EpochTable(const Stream& stream, std::int64_t epoch, const TableCache& kept, int threads);

  std::int64_t num_tokens() const noexcept { return cumulative_.back(); }
  // The document that holds the epoch's token, and the token's offset in it.
  Location locate(std::int64_t token) const;
  // The token that is the epoch's n-th, from 1, of those that do not begin a document.
  std::int64_t inner_token(std::int64_t n) const;

 private:
  void build(int threads);
  bool is_of_stream() const;
  std::int64_t num_strides() const noexcept;
  // Tokens of a stride's documents.
  std::int64_t sum(std::int64_t stride) const;
  // Lengths of the documents from a position on, as many as there are and fit.
  std::span<const std::int64_t> measure(std::int64_t first, std::span<std::int64_t> lengths) const;

  const Stream* stream_;
  EpochKeys keys_;
  Permutation order_;
  std::vector<std::int64_t> cumulative_;
};

// All epochs, one after the other. Safe to use from several threads.
class Timeline {
 public:
  Timeline(const Stream& stream, const TableCache& kept) : stream_(&stream), kept_(&kept) {}

  Location locate(std::int64_t token);
  // Saves the next call of locate the walk, if it is about this token.
  void remember(std::int64_t token, Location location);
  // The smallest N such that the labels 1 .. N hold `targets` that do not begin a document.
  std::int64_t last_inner_target(std::int64_t targets);

 private:
  using Table = std::shared_ptr<const EpochTable>;
  using Measure = std::function<std::int64_t(std::int64_t epoch)>;
  struct Span {
    std::int64_t epoch, rest, start;
  };

  Table table(std::int64_t epoch);
  void build_ahead(std::int64_t epoch);
  std::int64_t num_tokens(std::int64_t epoch);
  Span find_epoch(std::int64_t amount, const Measure& measure);

  const Stream* stream_;
  const TableCache* kept_;
  std::mutex mutex_;
  std::map<std::int64_t, std::shared_future<Table>> tables_;
  std::map<std::int64_t, std::int64_t> num_tokens_;
  std::deque<std::pair<std::int64_t, Location>> remembered_;
  std::atomic<bool> building_ahead_{false};
  std::optional<Thread> ahead_;  // last: it ends before what it uses
};

}  // namespace tresse
