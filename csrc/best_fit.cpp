#include "best_fit.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "parallel.hpp"
#include "targets.hpp"

namespace tresse {
namespace {

constexpr std::size_t kRecentLayouts = 8;

// A set of small integers that finds its smallest member of at least n.
class RoomSet {
 public:
  explicit RoomSet(std::int64_t size) : words_(size / 64 + 1), summary_(words_.size() / 64 + 1) {}

  void insert(std::int64_t n) noexcept {
    words_[n / 64] |= bit(n);
    summary_[n / 4096] |= bit(n / 64);
  }
  void erase(std::int64_t n) noexcept {
    words_[n / 64] &= ~bit(n);
    if (words_[n / 64] == 0) summary_[n / 4096] &= ~bit(n / 64);
  }
  // Returns the smallest member that is at least n, or -1.
  std::int64_t at_least(std::int64_t n) const noexcept {
    if (const auto word = words_[n / 64] & from(n)) return n / 64 * 64 + std::countr_zero(word);
    const auto next = n / 64 + 1;
    for (auto i = next / 64; i < static_cast<std::int64_t>(summary_.size()); ++i) {
      const auto words = summary_[i] & (i == next / 64 ? from(next) : ~std::uint64_t{0});
      if (words == 0) continue;
      const auto word = i * 64 + std::countr_zero(words);
      return word * 64 + std::countr_zero(words_[word]);
    }
    return -1;
  }

 private:
  static std::uint64_t bit(std::int64_t n) noexcept { return std::uint64_t{1} << n % 64; }
  static std::uint64_t from(std::int64_t n) noexcept { return ~std::uint64_t{0} << n % 64; }

  std::vector<std::uint64_t> words_, summary_;
};

// Open rows by the room left in them; of rows with equal room, the last to reach it comes first.
class OpenRows {
 public:
  explicit OpenRows(std::int64_t capacity) : rooms_(capacity), newest_(capacity + 1, -1) {}

  // Returns the row for a piece of this length: the fullest with enough room, or a new row.
  std::int64_t place(std::int64_t length) {
    auto room = rooms_.at_least(length);
    std::int64_t row = static_cast<std::int64_t>(older_.size());
    if (room < 0) {
      room = static_cast<std::int64_t>(newest_.size()) - 1;
      older_.push_back(-1);
    } else {
      row = std::exchange(newest_[room], older_[newest_[room]]);
      if (newest_[room] < 0) rooms_.erase(room);
    }
    if (room > length) open(row, room - length);
    return row;
  }

  std::int64_t num_rows() const noexcept { return static_cast<std::int64_t>(older_.size()); }

 private:
  void open(std::int64_t row, std::int64_t room) {
    older_[row] = std::exchange(newest_[room], row);
    rooms_.insert(room);
  }

  RoomSet rooms_;
  std::vector<std::int64_t> newest_;  // row, by room
  std::vector<std::int64_t> older_;   // the next row with the same room, by row
};

std::vector<Piece> cut_into_pieces(std::span<const std::int64_t> lengths, std::int64_t capacity) {
  std::vector<Piece> pieces;
  for (std::size_t item = 0; item < lengths.size(); ++item)
    for (std::int64_t offset = 0; offset < lengths[item]; offset += capacity)
      pieces.push_back(
          {static_cast<std::int64_t>(item), offset, std::min(capacity, lengths[item] - offset)});
  return pieces;
}

// Returns the indices of the pieces, longest first, equal lengths in order (counting sort).
std::vector<std::int64_t> longest_first(std::span<const Piece> pieces, std::int64_t capacity) {
  std::vector<std::int64_t> start(capacity + 2, 0), order(pieces.size());
  for (const auto& piece : pieces) ++start[capacity - piece.length + 1];
  std::partial_sum(start.begin(), start.end(), start.begin());
  for (std::size_t i = 0; i < pieces.size(); ++i) order[start[capacity - pieces[i].length]++] = i;
  return order;
}

}  // namespace

Layout pack_best_fit(std::span<const std::int64_t> lengths, std::int64_t capacity,
                     std::uint64_t key) {
  const auto pieces = cut_into_pieces(lengths, capacity);
  OpenRows open(capacity);
  std::vector<std::int64_t> row_of(pieces.size());
  for (auto i : longest_first(pieces, capacity)) row_of[i] = open.place(pieces[i].length);

  // Packing opens rows in order of falling length, so they are shuffled.
  const auto num_rows = open.num_rows();
  const Permutation shuffle(num_rows, key);
  std::vector<std::int64_t> place_of(num_rows);
  for (std::int64_t i = 0; i < num_rows; ++i) place_of[shuffle(i)] = i;

  Layout layout;
  layout.first_piece.assign(num_rows + 1, 0);
  for (auto row : row_of) ++layout.first_piece[place_of[row] + 1];
  std::partial_sum(layout.first_piece.begin(), layout.first_piece.end(),
                   layout.first_piece.begin());
  auto next = layout.first_piece;
  layout.pieces.resize(pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i)
    layout.pieces[next[place_of[row_of[i]]]++] = pieces[i];
  return layout;
}

BestFitRows::Window BestFitRows::window(std::int64_t number) const noexcept {
  const auto documents = stream_->num_documents();
  const auto per_epoch = (documents + kWindow - 1) / kWindow;
  const auto first = number % per_epoch * kWindow;
  return {number / per_epoch, first, std::min(kWindow, documents - first)};
}

Layout BestFitRows::pack(std::int64_t number) const {
  const auto [epoch, first, size] = window(number);
  std::vector<std::int64_t> documents(size), lengths(size);
  stream_->order(epoch).map(first, documents);
  stream_->lengths(stream_->keys(epoch), documents, lengths);
  const auto& spec = stream_->spec();
  auto layout = pack_best_fit(
      lengths, capacity_,
      hash_words(spec.seed, Domain::row_order, spec.stage, spec.index, epoch, first / kWindow));
  layout.documents = std::move(documents);
  return layout;
}

std::int64_t BestFitRows::num_targets(const Counted& row) const {
  const auto pieces = row.layout->row(row.row);
  std::int64_t targets = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto& piece = pieces[i];
    const auto skipped = mask_documents_ || i == 0;  // the first token of a row is no label
    targets += stream_->counts_all()
                   ? piece.length - skipped
                   : count_targets(stream_->lay_out(row.keys, row.layout->documents[piece.item]),
                                   piece.offset + skipped, piece.offset + piece.length);
  }
  return targets;
}

std::int64_t BestFitRows::valid_prefix(const Counted& row, std::int64_t targets) const {
  const auto pieces = row.layout->row(row.row);
  std::int64_t column = 0;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto& piece = pieces[i];
    const auto skipped = mask_documents_ || i == 0;
    const auto document = row.layout->documents[piece.item];
    if (stream_->counts_all()) {
      if (targets <= piece.length - skipped) return column + targets - !skipped;
      targets -= piece.length - skipped;
    } else {
      const auto runs = stream_->lay_out(row.keys, document);
      const auto begin = piece.offset + skipped;
      const auto own = count_targets(runs, begin, piece.offset + piece.length);
      if (targets <= own) return column + find_target(runs, begin, targets) - piece.offset;
      targets -= own;
    }
    column += piece.length;
  }
  throw_contradiction("a row has fewer targets than were counted");
}

BestFitRows::Size BestFitRows::size(std::int64_t number) const {
  const auto layout = pack(number);
  const auto keys = stream_->keys(window(number).epoch);
  Size size{layout.num_rows(), 0};
  for (std::int64_t r = 0; r < size.rows; ++r) size.targets += num_targets({&layout, r, keys});
  return size;
}

void BestFitRows::lay_out_more(std::int64_t windows) {
  const auto begin = static_cast<std::int64_t>(before_.size()) - 1;
  before_.resize(begin + windows + 1);
  const auto measure = [&](int, std::int64_t from, std::int64_t to) {
    for (auto i = begin + from; i < begin + to; ++i) before_[i + 1] = size(i);
  };
  const auto threads = std::min<std::int64_t>(windows, default_threads());
  parallel_parts(windows, static_cast<int>(threads), spawn, measure);
  for (auto i = begin; i < begin + windows; ++i) {
    before_[i + 1].rows += before_[i].rows;
    before_[i + 1].targets += before_[i].targets;
  }
}

void BestFitRows::lay_out(std::int64_t targets) {
  for (std::int64_t windows = 1; before_.back().targets < targets;
       windows = std::min<std::int64_t>(2 * windows, 64)) {
    lay_out_more(windows);
    if (before_.back().targets == 0 && window(before_.size()).epoch > 64)
      throw std::invalid_argument(
          "the stream has no targets: every document is one token, or no language that counts has "
          "a token after another one; add separators or pack with concat");
  }
}

// Loads cached sizes if they reach the targets. The first and the last window are measured again:
// sizes of another stream would differ there.
bool BestFitRows::load(const std::string& name, std::int64_t targets) {
  const auto table = cache_->load(name);
  const auto windows = static_cast<std::int64_t>(table.size() / 2) - 1;
  if (windows < 1 || table.back() < targets) return false;
  std::vector<Size> before(windows + 1);
  for (std::int64_t i = 0; i <= windows; ++i) {
    before[i] = {table[2 * i], table[2 * i + 1]};
    if (i > 0 && (before[i].rows <= before[i - 1].rows || before[i].targets < before[i - 1].targets))
      return false;
  }
  for (const auto i : {std::int64_t{0}, windows - 1}) {
    const auto [rows, counted] = size(i);
    if (before[i + 1].rows - before[i].rows != rows) return false;
    if (before[i + 1].targets - before[i].targets != counted) return false;
  }
  before_ = std::move(before);
  return true;
}

void BestFitRows::store(const std::string& name) const {
  std::vector<std::int64_t> table;
  for (const auto& [rows, targets] : before_) table.insert(table.end(), {rows, targets});
  cache_->store(name, table);
}

BestFitRows::End BestFitRows::extend(std::int64_t targets) {
  const auto name = "best-fit-" + std::to_string(capacity_) + (mask_documents_ ? "-masked-" : "-") +
                    std::to_string(targets);
  if (!load(name, targets)) {
    lay_out(targets);
    store(name);
  }
  const auto end = std::ranges::lower_bound(before_, targets, {}, &Size::targets);
  const auto number = end - before_.begin() - 1;
  const auto laid_out = layout(number);
  Counted row{laid_out.get(), 0, stream_->keys(window(number).epoch)};
  targets -= before_[number].targets;
  for (auto own = num_targets(row); targets > own; own = num_targets(row)) {
    targets -= own;
    if (++row.row == laid_out->num_rows())
      throw_contradiction("a window of rows has too few targets");
  }
  return {before_[number].rows + row.row + 1, valid_prefix(row, targets)};
}

BestFitRows::Row BestFitRows::row(std::int64_t row) {
  const auto next = std::ranges::upper_bound(before_, row, {}, &Size::rows);
  const auto number = next - before_.begin() - 1;
  return {layout(number), window(number).epoch, row - before_[number].rows};
}

std::shared_ptr<const Layout> BestFitRows::layout(std::int64_t number) {
  {
    std::lock_guard lock(mutex_);
    const auto found = std::find_if(recent_.begin(), recent_.end(),
                                    [&](const auto& entry) { return entry.first == number; });
    if (found != recent_.end()) {
      recent_.splice(recent_.begin(), recent_, found);
      return found->second;
    }
  }
  auto made = std::make_shared<const Layout>(pack(number));
  if (made->num_rows() != before_[number + 1].rows - before_[number].rows)
    throw_contradiction("a window of documents fills " + std::to_string(made->num_rows()) +
                        " rows, its table says " +
                        std::to_string(before_[number + 1].rows - before_[number].rows));
  std::lock_guard lock(mutex_);
  recent_.emplace_front(number, made);
  if (recent_.size() > kRecentLayouts) recent_.pop_back();
  return made;
}

}  // namespace tresse
