/* The example of README.md does what it says. */
#include "../../examples/c/minimal.c"
