/* The parts of the program `speed`. */
#ifndef CKPT_BENCH_SPEED_H
#define CKPT_BENCH_SPEED_H

#include "ckpt.h"
#include "worker.h"

extern const command machine_commands[]; /* machine.c */
extern const command ours_commands[];    /* ours.c */
extern const command train_commands[];   /* train.c */

/* Writes the model's tensors plainly, one behind the other, one call a tensor. */
void write_tensors(int fd);

/* The session that was opened under this name, and the model that it saves. */
ckpt *session_named(const char *name);
const ckpt_model *ours(void);

/* Makes the next save of a session due: its next epoch ends. */
void epoch_ends(ckpt *session);

/* Fails with the library's message if `status` is a failure. */
void check(ckpt_status status, const char *what);

#endif
