// SignalWatch: calls a function for each SIGINT or SIGTERM, on a thread of its own, where it may
// lock and allocate. Made first thing in main, before other threads, so that they inherit the
// blocked signals. One for a process.
#pragma once

#include <functional>
#include <thread>

namespace conclave {

class SignalWatch {
 public:
  // on_signal(count): 1 for the first signal, 2, 3, ... for each SIGINT after it. A further SIGTERM
  // asks for nothing new.
  explicit SignalWatch(std::function<void(int count)> on_signal);
  ~SignalWatch();  // joins
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  int signal_fd_ = -1;
  int stop_fd_ = -1;
  std::thread thread_;  // tidy: allow(thread-home) signals need one of their own
};

}  // namespace conclave
