#pragma once
// Packs whole documents into rows by best-fit decreasing (Johnson 1974), window by window of an
// epoch's order.

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "stream.hpp"
#include "table_cache.hpp"

namespace tresse {

// A whole document, or a part of one that is longer than a row.
struct Piece {
  std::int64_t item;  // the document's position in the window
  std::int64_t offset, length;  // tokens
};

// The rows of a window: row r holds pieces[first_piece[r]] to pieces[first_piece[r + 1] - 1].
struct Layout {
  std::vector<std::int64_t> documents;  // of the window, by item
  std::vector<std::int64_t> first_piece{0};
  std::vector<Piece> pieces;

  std::int64_t num_rows() const noexcept {
    return static_cast<std::int64_t>(first_piece.size()) - 1;
  }
  std::span<const Piece> row(std::int64_t r) const noexcept {
    return std::span(pieces).subspan(first_piece[r], first_piece[r + 1] - first_piece[r]);
  }
};

// Packs documents of the given lengths (>= 1) into rows of `capacity` tokens. Longer documents are
// cut into pieces of `capacity`. Row i of the result is the row that was opened as number
// Permutation(num_rows, key)(i).
Layout pack_best_fit(std::span<const std::int64_t> lengths, std::int64_t capacity,
                     std::uint64_t key);

// The rows of a stream packed by best fit. After `extend`, several threads may use it.
class BestFitRows {
 public:
  static constexpr std::int64_t kWindow = 4096;  // documents
  struct Row {
    std::shared_ptr<const Layout> layout;
    std::int64_t epoch;  // of the row's window
    std::int64_t index;  // of the row in its window
  };
  struct End {
    std::int64_t num_rows, last_num_valid;
  };

  BestFitRows(const Stream& stream, const TableCache& cache, std::int64_t capacity,
              bool mask_documents)
      : stream_(&stream), cache_(&cache), capacity_(capacity), mask_documents_(mask_documents) {}

  // Lays out windows until their rows hold `targets`, and returns the row and the label that reach
  // them. Call it once. Sizes of windows come from the cache if they are there.
  End extend(std::int64_t targets);
  Row row(std::int64_t row);

 private:
  struct Window {
    std::int64_t epoch, first_position, num_documents;
  };
  struct Size {
    std::int64_t rows, targets;
  };

  Window window(std::int64_t number) const noexcept;
  Layout pack(std::int64_t number) const;
  std::shared_ptr<const Layout> layout(std::int64_t number);
  // A row with all that counting its targets needs.
  struct Counted {
    const Layout* layout;
    std::int64_t row;
    EpochKeys keys;
  };
  std::int64_t num_targets(const Counted& row) const;
  // Returns the number of leading labels that hold this many targets (at least 1).
  std::int64_t valid_prefix(const Counted& row, std::int64_t targets) const;
  Size size(std::int64_t window) const;
  void lay_out(std::int64_t targets);
  void lay_out_more(std::int64_t windows);
  bool load(const std::string& name, std::int64_t targets);
  void store(const std::string& name) const;

  const Stream* stream_;
  const TableCache* cache_;
  std::int64_t capacity_;
  bool mask_documents_;
  std::vector<Size> before_{{0, 0}};  // rows and targets before each window, and in all
  std::mutex mutex_;
  std::list<std::pair<std::int64_t, std::shared_ptr<const Layout>>> recent_;  // newest first
};

}  // namespace tresse
