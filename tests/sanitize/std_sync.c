/* Tells ThreadSanitizer of the locks inside Rust's standard library, which is not built for it: what its mutexes, condition
   variables and once cells do out of line is seen from outside here (ld --wrap; the names are given by sanitize.sh). */
#include <stdbool.h>

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define REAL(function) PASTE(__real_, function)
#define WRAP(function) PASTE(__wrap_, function)

void __tsan_acquire(void *address);
void __tsan_release(void *address);

/* Mutex::lock, where another thread has it. Unlocking is in line, so that it is seen. */
void REAL(LOCK)(void *mutex);
void WRAP(LOCK)(void *mutex);
void WRAP(LOCK)(void *mutex) {
  REAL(LOCK)(mutex);
  __tsan_acquire(mutex);
}

/* Condvar::wait. */
void REAL(WAIT)(void *condvar, void *mutex);
void WRAP(WAIT)(void *condvar, void *mutex);
void WRAP(WAIT)(void *condvar, void *mutex) {
  __tsan_release(mutex);
  REAL(WAIT)(condvar, mutex);
  __tsan_acquire(mutex);
}

/* Once::call. */
void REAL(CALL)(void *once, bool ignore_poison, void *closure, const void *table, const void *location);
void WRAP(CALL)(void *once, bool ignore_poison, void *closure, const void *table, const void *location);
void WRAP(CALL)(void *once, bool ignore_poison, void *closure, const void *table, const void *location) {
  REAL(CALL)(once, ignore_poison, closure, table, location);
  __tsan_release(once);
  __tsan_acquire(once);
}
