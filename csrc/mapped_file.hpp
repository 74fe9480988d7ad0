#pragma once
// A file mapped for reading. Unlike Python's mmap it keeps no descriptor: a corpus may have more
// shards than a process may have open files.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

namespace tresse {

class MappedFile {
 public:
  // Throws std::system_error if the file cannot be opened or mapped.
  explicit MappedFile(const std::string& path) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (descriptor >= 0 && fstat(descriptor, &status) == 0 && status.st_size > 0) {
      size_ = static_cast<std::size_t>(status.st_size);
      start_ = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
    }
    const int error = errno;
    if (descriptor >= 0) close(descriptor);
    if (descriptor < 0 || start_ == MAP_FAILED)
      throw std::system_error(error, std::generic_category());
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  ~MappedFile() {
    if (size_ > 0) munmap(start_, size_);
  }

  // Not null, even for an empty file.
  const std::uint8_t* data() const noexcept { return static_cast<const std::uint8_t*>(start_); }
  std::size_t size() const noexcept { return size_; }

 private:
  static inline char nothing_ = 0;

  void* start_ = &nothing_;
  std::size_t size_ = 0;
};

}  // namespace tresse
