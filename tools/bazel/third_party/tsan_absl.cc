// absl::Mutex, CondVar and Notification over pthreads, for --config=tsan only. The system's Abseil
// is built without the thread sanitizer, which then sees none of its locking and reports every
// guarded field as a race. These definitions come first in the link (-z muldefs) and take the place
// of the archive's. The lock or condition variable is made at first use and hangs in the object's
// one word. Readers exclude each other, which Abseil allows.
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <ctime>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace {

struct Lock {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t released = PTHREAD_COND_INITIALIZER;  // signalled when a holder lets go
};

// The T that hangs in `word`, made by whoever comes first.
template <typename T>
T* Get(std::atomic<intptr_t>& word) {
  intptr_t now = word.load(std::memory_order_acquire);
  if (now == 0) {
    T* made = new T();
    if (word.compare_exchange_strong(now, reinterpret_cast<intptr_t>(made))) return made;
    delete made;  // tidy: allow(raw-delete) a word holds no unique_ptr
  }
  return reinterpret_cast<T*>(now);
}

// Waits once; false when `deadline` has passed.
bool WaitOnce(pthread_cond_t* condition, pthread_mutex_t* mutex, absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) {
    pthread_cond_wait(condition, mutex);
    return true;
  }
  const timespec until = absl::ToTimespec(deadline);
  return pthread_cond_timedwait(condition, mutex, &until) != ETIMEDOUT;
}

absl::Time After(absl::Duration timeout) { return absl::Now() + timeout; }

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

Mutex::~Mutex() {
  ABSL_TSAN_MUTEX_DESTROY(this, __tsan_mutex_not_static);
  auto* lock = reinterpret_cast<::Lock*>(mu_.load());
  if (lock == nullptr) return;
  pthread_cond_destroy(&lock->released);
  pthread_mutex_destroy(&lock->mutex);
  delete lock;  // tidy: allow(raw-delete) a word holds no unique_ptr
}

void Mutex::Lock() { pthread_mutex_lock(&Get<::Lock>(mu_)->mutex); }

void Mutex::Unlock() {
  auto* lock = Get<::Lock>(mu_);
  pthread_cond_broadcast(&lock->released);  // whoever waits for a condition looks again
  pthread_mutex_unlock(&lock->mutex);
}

bool Mutex::TryLock() { return pthread_mutex_trylock(&Get<::Lock>(mu_)->mutex) == 0; }
void Mutex::AssertHeld() const {}
void Mutex::AssertNotHeld() const {}

void Mutex::ReaderLock() { Lock(); }
void Mutex::ReaderUnlock() { Unlock(); }
bool Mutex::ReaderTryLock() { return TryLock(); }
void Mutex::AssertReaderHeld() const {}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  if (condition.Eval()) return true;
  auto* lock = Get<::Lock>(mu_);
  pthread_cond_broadcast(&lock->released);
  while (!condition.Eval()) {
    if (!WaitOnce(&lock->released, &lock->mutex, deadline)) return condition.Eval();
  }
  return true;
}
bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  return AwaitWithDeadline(condition, After(timeout));
}
void Mutex::Await(const Condition& condition) { AwaitWithDeadline(condition, InfiniteFuture()); }

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  Lock();
  return AwaitWithDeadline(condition, deadline);
}
bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  return LockWhenWithDeadline(condition, After(timeout));
}
void Mutex::LockWhen(const Condition& condition) {
  LockWhenWithDeadline(condition, InfiniteFuture());
}

bool Mutex::ReaderLockWhenWithDeadline(const Condition& condition, Time deadline) {
  return LockWhenWithDeadline(condition, deadline);
}
bool Mutex::ReaderLockWhenWithTimeout(const Condition& condition, Duration timeout) {
  return LockWhenWithTimeout(condition, timeout);
}
void Mutex::ReaderLockWhen(const Condition& condition) { LockWhen(condition); }

void ReleasableMutexLock::Release() {
  mu_->Unlock();
  mu_ = nullptr;
}

CondVar::~CondVar() {
  auto* condition = reinterpret_cast<pthread_cond_t*>(cv_.load());
  if (condition == nullptr) return;
  pthread_cond_destroy(condition);
  delete condition;  // tidy: allow(raw-delete) a word holds no unique_ptr
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  auto* lock = Get<::Lock>(mutex->mu_);
  pthread_cond_broadcast(&lock->released);
  return !WaitOnce(Get<pthread_cond_t>(cv_), &lock->mutex, deadline);
}
bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  return WaitWithDeadline(mutex, After(timeout));
}
void CondVar::Wait(Mutex* mutex) { WaitWithDeadline(mutex, InfiniteFuture()); }
void CondVar::Signal() { pthread_cond_signal(Get<pthread_cond_t>(cv_)); }
void CondVar::SignalAll() { pthread_cond_broadcast(Get<pthread_cond_t>(cv_)); }

Notification::~Notification() { MutexLock wait_for_notify(&mutex_); }

void Notification::Notify() {
  MutexLock lock(&mutex_);
  notified_yet_.store(true, std::memory_order_release);
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  if (HasBeenNotified()) return true;
  const bool notified =
      mutex_.LockWhenWithDeadline(Condition(&HasBeenNotifiedInternal, &notified_yet_), deadline);
  mutex_.Unlock();
  return notified;
}
bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  return WaitForNotificationWithDeadline(After(timeout));
}
void Notification::WaitForNotification() const {
  WaitForNotificationWithDeadline(InfiniteFuture());
}

ABSL_NAMESPACE_END
}  // namespace absl
