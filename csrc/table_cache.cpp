#include "table_cache.hpp"

#include <filesystem>
#include <fstream>
#include <random>
#include <system_error>

#include "random.hpp"

namespace tresse {
namespace {

struct Header {
  std::uint64_t format, size, checksum;

  bool operator==(const Header&) const = default;
};

constexpr std::uint64_t kFormat = 0x3130'6c62'6174'7274;  // "trtabl01", little-endian

Header header_of(std::span<const std::int64_t> values) noexcept {
  std::uint64_t checksum = values.size();
  for (auto value : values) checksum = fold(checksum, static_cast<std::uint64_t>(value));
  return {kFormat, values.size(), checksum};
}

}  // namespace

std::string TableCache::path(std::string_view name) const {
  return prefix_ + std::string(name) + ".table";
}

std::vector<std::int64_t> TableCache::load(std::string_view name) const {
  std::error_code error;
  const auto bytes = prefix_.empty() ? 0 : std::filesystem::file_size(path(name), error);
  if (error || bytes < sizeof(Header)) return {};
  Header header;
  std::ifstream file(path(name), std::ios::binary);
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  const auto size = (bytes - sizeof header) / sizeof(std::int64_t);
  if (!file || header.format != kFormat || header.size != size) return {};
  std::vector<std::int64_t> values(size);
  file.read(reinterpret_cast<char*>(values.data()),
            static_cast<std::streamsize>(values.size() * sizeof(std::int64_t)));
  if (!file || header != header_of(values)) return {};
  return values;
}

void TableCache::store(std::string_view name, std::span<const std::int64_t> values) const {
  if (prefix_.empty()) return;
  const auto temporary = path(name) + "." + std::to_string(std::random_device{}()) + ".tmp";
  std::ofstream file(temporary, std::ios::binary);
  const auto header = header_of(values);
  file.write(reinterpret_cast<const char*>(&header), sizeof header);
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size_bytes()));
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, path(name), error);
  if (!file || error) std::filesystem::remove(temporary, error);
}

}  // namespace tresse
