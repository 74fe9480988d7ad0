#pragma once
// Loops over contiguous parts of a range, each part on its own thread.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace tresse {

inline int default_threads() noexcept {
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
}

// Calls work(0) here and work(1) .. work(parts - 1) on threads that end with the call.
inline void spawn(int parts, const std::function<void(int part)>& work) {
  std::vector<std::jthread> threads;
  for (int part = 1; part < parts; ++part) threads.emplace_back(work, part);
  work(0);
}

// A thread that is joined by the process that started it: a fork copies the object, not the thread.
class Thread {
 public:
  explicit Thread(std::function<void()> work) : thread_(std::move(work)), process_(getpid()) {}
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;

  ~Thread() {
    if (is_here())
      thread_.join();
    else  // in a forked process std::thread can be neither joined, detached nor destroyed
      static_cast<void>(new std::thread(std::move(thread_)));
  }

  bool is_here() const noexcept { return process_ == getpid(); }

 private:
  std::thread thread_;
  pid_t process_;
};

// Threads that are kept for later calls: starting one takes as long as packing a dozen rows.
class Workers {
 public:
  ~Workers() {
    if (are_here()) announce(nullptr, 0);
  }

  // Like spawn, on kept threads. A second caller at the same time and a forked process spawn.
  void run(int parts, const std::function<void(int part)>& work) {
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (parts == 1) return work(0);
    if (!lock || !are_here()) return spawn(parts, work);
    while (static_cast<int>(threads_.size()) < parts - 1) add_thread();
    pending_ = static_cast<int>(threads_.size());
    announce(&work, parts);
    work(0);
    for (int left = pending_; left > 0; left = pending_) wait(pending_, left);
  }

 private:
  bool are_here() const noexcept { return threads_.empty() || threads_.front().is_here(); }

  void add_thread() {
    const int part = static_cast<int>(threads_.size()) + 1;
    threads_.emplace_back([this, part, seen = turn_.load()] { serve(part, seen); });
  }

  void announce(const std::function<void(int)>* work, int parts) {
    work_ = work;
    parts_ = parts;
    ++turn_;
    turn_.notify_all();
  }

  // Waits while the value is `old`. It spins first, as waking a thread takes as long as a fill.
  template <class T>
  static void wait(const std::atomic<T>& value, T old) {
    constexpr auto kSpin = std::chrono::microseconds(50);
    const auto end = std::chrono::steady_clock::now() + kSpin;
    while (value == old)
      if (std::chrono::steady_clock::now() > end) return value.wait(old);
  }

  void serve(int part, std::uint64_t seen) {
    while (true) {
      wait(turn_, seen);
      seen = turn_;
      if (work_ == nullptr) return;
      if (part < parts_) (*work_)(part);
      if (--pending_ == 0) pending_.notify_one();
    }
  }

  std::mutex mutex_;
  const std::function<void(int)>* work_ = nullptr;  // null tells the threads to end
  int parts_ = 0;
  std::atomic<std::uint64_t> turn_{0};
  std::atomic<int> pending_{0};
  std::deque<Thread> threads_;  // last member: threads are joined before other members end
};

// Calls work(part, begin, end) for `parts` contiguous parts of [0, size), through run(parts, work),
// which is `spawn` or `Workers::run`. Rethrows the first exception after all parts have ended.
template <class Run, class Work>
void parallel_parts(std::int64_t size, int parts, const Run& run, const Work& work) {
  std::vector<std::exception_ptr> errors(parts);
  run(parts, [&](int part) noexcept {
    try {
      work(part, size * part / parts, size * (part + 1) / parts);
    } catch (...) {
      errors[part] = std::current_exception();
    }
  });
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace tresse
