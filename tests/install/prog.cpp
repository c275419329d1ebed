// An outsider's program in C++.
#include <ckpt.hpp>

#include <cstdio>

int main() { return std::printf("%x\n", static_cast<unsigned>(ckpt_version())) < 0; }
