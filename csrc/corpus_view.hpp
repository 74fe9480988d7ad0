#pragma once
// A view of a corpus; its arrays are owned by others, usually memory-mapped shards.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace tresse {

inline constexpr std::size_t kMaxLanguages = 255;

// Throws because numbers of the corpus contradict each other. Shards are mapped files: whatever
// happens to them while they are read, the packer must neither read beyond them nor loop.
[[noreturn]] inline void throw_contradiction(const std::string& what) {
  throw std::invalid_argument(what +
                              "; the shards are damaged or were overwritten while they are read, "
                              "or a cached table is of another corpus: verify the corpus");
}

// The arrays of one shard. `tokens` holds uint16 or uint32, by LanguageView::token_bytes.
struct Shard {
  const std::byte* tokens;
  std::int64_t num_tokens;
  std::span<const std::uint16_t> sentence_lengths;
  std::span<const std::uint32_t> document_lengths;
  std::span<const std::int64_t> document_tokens;  // [documents + 1], offsets into tokens
  std::span<const std::int64_t>
      document_sentences;  // [documents + 1], offsets into sentence_lengths
  std::span<const std::uint64_t> key_hash;
  std::span<const std::uint16_t> word_lengths{};    // empty if the words are not known
  std::span<const std::int64_t> document_words{};  // [documents + 1], offsets into word_lengths
};

// The place of a document of one language.
struct Place {
  const Shard* shard;
  std::int64_t document;  // within the shard
};

// All shards of a language in a corpus. Documents are numbered through the shards in order.
class LanguageView {
 public:
  // Several views may have one language, those of several corpora; then their tokens are alike.
  explicit LanguageView(std::uint8_t language, int token_bytes = 2, std::uint32_t first_id = 0)
      : language_(language), token_bytes_(token_bytes), first_id_(first_id) {}

  // What the language of its tokens is called in a batch.
  std::uint8_t language() const noexcept { return language_; }
  // Size of a token in the shards: 2 or 4.
  int token_bytes() const noexcept { return token_bytes_; }
  // What is added to a token of the shards in a batch.
  std::uint32_t first_id() const noexcept { return first_id_; }

  void add(Shard shard) {
    check(shard);
    first_document_.push_back(num_documents() + static_cast<std::int64_t>(shard.key_hash.size()));
    shards_.push_back(shard);
  }

  std::int64_t num_documents() const noexcept { return first_document_.back(); }
  const std::vector<Shard>& shards() const noexcept { return shards_; }

  Place locate(std::int64_t document) const {
    if (document < 0 || document >= num_documents())
      throw_contradiction("translations name document " + std::to_string(document) + " of " +
                          std::to_string(num_documents()));
    auto next = std::upper_bound(first_document_.begin() + 1, first_document_.end() - 1, document);
    auto index = next - first_document_.begin() - 1;
    return {&shards_[index], document - first_document_[index]};
  }

 private:
  static void check(const Shard& shard) {
    const auto documents = shard.key_hash.size();
    const bool sizes = shard.document_lengths.size() == documents &&
                       shard.document_tokens.size() == documents + 1 &&
                       shard.document_sentences.size() == documents + 1;
    if (!sizes)
      throw std::invalid_argument("shard with " + std::to_string(documents) +
                                  " key hashes has document arrays of another length");
    if (shard.document_tokens.front() != 0 || shard.document_tokens.back() != shard.num_tokens)
      throw std::invalid_argument("shard: document_tokens must run from 0 to its " +
                                  std::to_string(shard.num_tokens) + " tokens");
    const auto sentences = static_cast<std::int64_t>(shard.sentence_lengths.size());
    if (shard.document_sentences.front() != 0 || shard.document_sentences.back() != sentences)
      throw std::invalid_argument("shard: document_sentences must run from 0 to its " +
                                  std::to_string(sentences) + " sentences");
    const auto words = static_cast<std::int64_t>(shard.word_lengths.size());
    const auto& ends = shard.document_words;
    if (words > 0 && (ends.size() != documents + 1 || ends.front() != 0 || ends.back() != words))
      throw std::invalid_argument("shard: document_words must run from 0 to its " +
                                  std::to_string(words) + " words");
  }

  std::uint8_t language_;
  int token_bytes_;
  std::uint32_t first_id_;
  std::vector<Shard> shards_;
  std::vector<std::int64_t> first_document_{0};
};

struct CorpusView {
  std::vector<LanguageView> views;  // a view for each language of each corpus

  // Returns the size of a token if the tokens of all shards are copied as they are, else 0.
  int common_bytes() const noexcept {
    const auto bytes = views.empty() ? 0 : views[0].token_bytes();
    for (const auto& view : views)
      if (view.token_bytes() != bytes || view.first_id() != 0) return 0;
    return bytes;
  }

  // Returns the size of the widest token of all shards.
  int widest_bytes() const noexcept {
    int bytes = 0;
    for (const auto& view : views) bytes = std::max(bytes, view.token_bytes());
    return bytes;
  }
};

// The tokens of all shards laid end to end: views in order, and the shards of each in order.
class Pool {
 public:
  explicit Pool(const CorpusView& corpus) {
    std::int64_t first = 0;
    for (const auto& view : corpus.views)
      for (const auto& shard : view.shards()) {
        if (shard.num_tokens > 0) parts_.push_back({shard.tokens, first, view.token_bytes()});
        first += shard.num_tokens;
      }
    std::sort(parts_.begin(), parts_.end(),
              [](const Part& a, const Part& b) { return std::less<>()(a.begin, b.begin); });
  }

  // Returns the index in the pool of a token of a shard. The shards' arrays do not overlap.
  std::int64_t offset(const std::byte* token) const noexcept {
    const auto before = [](const std::byte* token, const Part& part) {
      return std::less<>()(token, part.begin);
    };
    const auto& part = *(std::upper_bound(parts_.begin(), parts_.end(), token, before) - 1);
    return part.first + (token - part.begin) / part.token_bytes;
  }

 private:
  struct Part {
    const std::byte* begin;
    std::int64_t first;
    int token_bytes;
  };
  std::vector<Part> parts_;  // by address
};

}  // namespace tresse
