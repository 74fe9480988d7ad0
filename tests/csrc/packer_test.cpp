// Packs a small corpus in every mode; built with the sanitizers. Rows must not depend on the number
// of threads or on the rows of a batch, nothing may be read or written outside its array, and the
// copies of a batch must give its tokens.

#include "packer.hpp"

#include <array>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace tresse;

// Arrays on the heap of exactly their size, so that the sanitizer sees a read beyond an end.
struct Arrays {
  std::vector<std::byte> tokens;
  std::vector<std::uint16_t> sentence_lengths;
  std::vector<std::uint32_t> document_lengths;
  std::vector<std::int64_t> document_tokens{0}, document_sentences{0};
  std::vector<std::uint64_t> key_hash;
  std::vector<std::uint16_t> word_lengths;
  std::vector<std::int64_t> document_words{0};
};

// Each sentence has as many words in all languages.
template <class Token>
Arrays make_shard(std::uint64_t seed, int first_document, int num_documents) {
  Arrays arrays;
  std::vector<Token> tokens;
  for (int d = first_document; d < first_document + num_documents; ++d) {
    const auto sentences = 1 + bounded(hash_words(d), 6);
    const auto before = tokens.size();
    for (std::uint64_t s = 0; s < sentences; ++s) {
      std::uint64_t length = 0;
      const auto words = 1 + bounded(hash_words(d, s, 7), 12);
      for (std::uint64_t w = 0; w < words; ++w) {
        arrays.word_lengths.push_back(
            static_cast<std::uint16_t>(1 + bounded(hash_words(seed, d, s, w, 8), 5)));
        length += arrays.word_lengths.back();
      }
      arrays.sentence_lengths.push_back(static_cast<std::uint16_t>(length));
      for (std::uint64_t i = 0; i < length; ++i)
        tokens.push_back(static_cast<Token>(bounded(hash_words(seed, d, s, i), 2048)));
    }
    arrays.document_lengths.push_back(static_cast<std::uint32_t>(tokens.size() - before));
    arrays.document_tokens.push_back(static_cast<std::int64_t>(tokens.size()));
    arrays.document_sentences.push_back(static_cast<std::int64_t>(arrays.sentence_lengths.size()));
    arrays.document_words.push_back(static_cast<std::int64_t>(arrays.word_lengths.size()));
    arrays.key_hash.push_back(hash_words(d));
  }
  arrays.tokens.resize(tokens.size() * sizeof(Token));
  std::memcpy(arrays.tokens.data(), tokens.data(), arrays.tokens.size());
  return arrays;
}

struct Corpus {
  std::vector<Arrays> arrays;
  CorpusView view;
  std::vector<std::int64_t> documents;  // aligned: every document in all three languages
};

constexpr int kLanguages = 3, kDocuments = 61;

template <class Token>
Corpus make_corpus(const std::array<std::uint32_t, 3>& first_ids) {
  Corpus corpus;
  for (int language = 0; language < kLanguages; ++language) {
    corpus.arrays.push_back(make_shard<Token>(language, 0, 20));
    corpus.arrays.push_back(make_shard<Token>(language, 20, kDocuments - 20));
  }
  for (std::uint8_t language = 0; language < kLanguages; ++language)
    corpus.view.views.emplace_back(language, sizeof(Token), first_ids[language]);
  for (std::size_t i = 0; i < corpus.arrays.size(); ++i) {
    const auto& a = corpus.arrays[i];
    corpus.view.views[i / 2].add({a.tokens.data(), a.document_tokens.back(), a.sentence_lengths,
                                      a.document_lengths, a.document_tokens, a.document_sentences,
                                      a.key_hash, a.word_lengths, a.document_words});
  }
  for (std::int64_t d = 0; d < kDocuments; ++d) corpus.documents.push_back(d);
  return corpus;
}

// Tables are cached in files whose names begin with `table_prefix`.
void add_streams(Packer& packer, const Corpus& corpus, const std::string& table_prefix) {
  const std::vector<std::span<const std::int64_t>> documents(kLanguages, corpus.documents);
  StreamSpec mono{.views = {1}, .seed = 1, .index = 0};
  StreamSpec alternate{.views = {2, 0, 1},
                       .mode = Mode::alternate,
                       .random_order = true,
                       .documents = documents,
                       .seed = 1,
                       .index = 1};
  StreamSpec uniform{
      .views = {0, 1, 2}, .mode = Mode::sample, .documents = documents, .seed = 1, .index = 2};
  auto skewed = uniform;
  skewed.thresholds = {std::uint64_t{1} << 62, std::uint64_t{3} << 62};
  skewed.index = 3;
  auto words = alternate;
  words.unit = Unit::words;
  words.most_words = 4;
  words.templates = {{{7, 8, 9}, {}}, {{}, {10}}, {{11}, {12, 13}}};
  words.counted = {true, false, true};
  words.index = 4;
  auto sampled_words = skewed;
  sampled_words.unit = Unit::words;
  sampled_words.least_words = sampled_words.most_words = 3;
  sampled_words.index = 5;
  StreamSpec given{.views = {1, 0}, .documents = {documents[0], documents[1]}, .seed = 1};
  given.num_given = 1;
  given.counted = {false, true};
  given.index = 6;
  auto whole = alternate;
  whole.unit = Unit::document;
  whole.index = 7;
  for (const auto& spec : {mono, alternate, uniform, skewed, words, sampled_words, given, whole})
    packer.add_stream(spec, 2'000, TableCache(table_prefix + std::to_string(spec.index) + "-"));
}

// Returns the tokens of `num_rows` rows from row `first`, in memory of exactly that size.
template <class Out>
std::vector<Out> fill(Packer& packer, std::int64_t T, std::int64_t first, std::int64_t num_rows,
                      int threads) {
  std::vector<Out> tokens(num_rows * (T + 1), static_cast<Out>(-1));
  std::vector<std::int32_t> num_valid(num_rows, -1);
  const auto found = packer.fill(
      first, num_rows, {reinterpret_cast<std::byte*>(tokens.data()), sizeof(Out), num_valid.data()},
      threads);
  bool ordered = found.cu_seqlens.back() == num_rows * T;
  for (std::size_t i = 1; i < found.cu_seqlens.size(); ++i)
    ordered = ordered && found.cu_seqlens[i - 1] < found.cu_seqlens[i];
  if (!ordered) throw std::runtime_error("cu_seqlens are not in order");
  return tokens;
}

// The tokens of all shards, end to end.
template <class Token>
std::vector<Token> make_pool(const Corpus& corpus) {
  std::vector<Token> pool;
  for (std::size_t i = 0; i < corpus.arrays.size(); ++i) {
    const auto& arrays = corpus.arrays[i];
    const auto size = pool.size();
    pool.resize(size + arrays.tokens.size() / sizeof(Token));
    std::memcpy(pool.data() + size, arrays.tokens.data(), arrays.tokens.size());
    const auto first_id = corpus.view.views[i / 2].first_id();
    for (auto j = size; j < pool.size(); ++j) pool[j] = static_cast<Token>(pool[j] + first_id);
  }
  return pool;
}

// The same tokens as `fill`, copied from the pool.
template <class Token, class Out>
std::vector<Out> gather(Packer& packer, const std::vector<Token>& pool, std::int64_t T,
                        std::int64_t first, std::int64_t num_rows, int threads) {
  std::vector<std::int32_t> num_valid(num_rows, -1);
  const auto found = packer.copies(first, num_rows, num_valid.data(), threads).copies;
  std::vector<Out> tokens;
  for (std::size_t i = 0; i < found.size(); i += 2) {
    const auto end = i + 2 < found.size() ? found[i + 3] & UINT32_MAX : num_rows * (T + 1);
    for (auto source = found[i]; static_cast<std::int64_t>(tokens.size()) < end; ++source)
      tokens.push_back(static_cast<Out>(found[i] < 0 ? -1 - found[i] : pool.at(source)));
  }
  return tokens;
}

template <class Token, class Out>
void check(PackingSpec packing, const std::string& table_prefix,
           const std::array<std::uint32_t, 3>& first_ids = {0, 0, 0}) {
  const auto corpus = make_corpus<Token>(first_ids);
  const auto pool = make_pool<Token>(corpus);
  Packer packer(corpus.view, packing);
  add_streams(packer, corpus, table_prefix);
  const auto T = packing.row_length;
  const auto num_rows = packer.num_rows() + 3;  // and some past the end
  const auto whole = fill<Out>(packer, T, 0, num_rows, 1);
  std::vector<std::jthread> callers;
  std::vector<std::exception_ptr> errors(3);
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&, caller] {
      try {
        for (std::int64_t first = caller; first < num_rows; first += 7 + caller) {
          const auto size = std::min<std::int64_t>(7 + caller, num_rows - first);
          const auto part = fill<Out>(packer, T, first, size, 1 + caller);
          if (!std::equal(part.begin(), part.end(), whole.begin() + first * (T + 1)))
            throw std::runtime_error("rows depend on how they are asked for");
          if (gather<Token, Out>(packer, pool, T, first, size, 1 + caller) != part)
            throw std::runtime_error("copies give other tokens than a fill");
        }
      } catch (...) {
        errors[caller] = std::current_exception();
      }
    });
  callers.clear();
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace

// Takes the folder for cached tables.
int main(int, char** arguments) {
  try {
    int checks = 0;
    for (const auto mode : {PackingMode::concat, PackingMode::best_fit})
      for (const auto& specials : {Specials{}, Specials{2048, -1, 2050}, Specials{2048, 2049, -1}})
        for (const bool mask : {false, true})
          for (const std::int64_t T : {3, 64, 500}) {
            const PackingSpec packing{T, mode, specials, mask};
            const auto table_prefix =
                std::string(arguments[1]) + "/" + std::to_string(checks) + "-";
            check<std::uint16_t, std::uint16_t>(packing, table_prefix);
            if (T == 64) check<std::uint16_t, std::uint32_t>(packing, table_prefix);
            if (T == 64) check<std::uint32_t, std::uint32_t>(packing, table_prefix);
            if (T == 64) check<std::uint16_t, std::uint16_t>(packing, table_prefix, {0, 3000, 0});
            ++checks;
          }
    std::printf("%d packings hold\n", checks);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
