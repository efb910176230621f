#include "comm/base/signal_watch.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "glog/logging.h"

namespace conclave {

SignalWatch::SignalWatch(std::function<void(int count)> on_signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  PCHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  PCHECK(signal_fd_ >= 0 && stop_fd_ >= 0);
  // tidy: allow(thread-home) signals need a thread that may lock
  thread_ = std::thread([this, on_signal = std::move(on_signal)] {
    for (int count = 1;;) {
      pollfd fds[] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0) continue;
      if (fds[1].revents != 0) return;
      signalfd_siginfo info;
      if (read(signal_fd_, &info, sizeof(info)) != sizeof(info)) continue;
      if (count == 1 || info.ssi_signo == SIGINT) on_signal(count++);
    }
  });
}

SignalWatch::~SignalWatch() {
  const uint64_t one = 1;
  PCHECK(write(stop_fd_, &one, sizeof(one)) == sizeof(one));
  thread_.join();
  close(signal_fd_);
  close(stop_fd_);
}

}  // namespace conclave
