/* The benchmark's program in C: libckpt and the machine, by the same buffers, one command at a time (see worker.h). */
#include "speed.h"

int main(int argc, char **argv) {
  const command *const tables[] = {machine_commands, ours_commands, train_commands, NULL};
  return work(argc, argv, tables);
}
