/* What the locks (lock.c) need of the files below them. */
#ifndef SHR_WAITING_H
#define SHR_WAITING_H

#include "internal.h"

/* ---- sys.c, proc.c ---- */

/* For the low half of a word that other processes wait for as well. */
void shr__sys_wait_shared(shr_a64 *word, uint32_t low, uint32_t most_ms);
void shr__sys_wake_shared(shr_a64 *word);
uint64_t shr__sys_mono_ns(void); /* monotonic, exact */
uint32_t shr__sys_thread(void); /* the number of this thread: 22 bits */

/* ---- error.c ---- */

uint32_t shr__thread_number(void); /* the same, asked once; in the process's pid namespace */

#endif
