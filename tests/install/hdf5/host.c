/*
 * A program with an HDF5 of its own, of another version than the one inside libckpt, uses both: each writes what the
 * other reads, and they take turns. The dataset in chunks, which our own parser leaves to the HDF5 inside, makes that
 * one run for certain.
 */
#include <ckpt.h>
#include <hdf5.h>

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                                     \
  do {                                                                                                    \
    if (!(condition)) {                                                                                 \
      fprintf(stderr, "host.c:%d: %s\n  %s\n", __LINE__, #condition, ckpt_last_error());              \
      exit(1);                                                                                        \
    }                                                                                                   \
  } while (0)

enum { ROWS = 50, COLUMNS = 7 };
static float data[ROWS][COLUMNS], back[ROWS][COLUMNS];

static void host_writes_in_chunks(const char *path) {
  const hsize_t shape[2] = {ROWS, COLUMNS}, chunk[2] = {8, 4};
  hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  hid_t space = H5Screate_simple(2, shape, NULL);
  hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  hid_t dataset;
  MUST(file >= 0 && space >= 0 && properties >= 0);
  MUST(H5Pset_chunk(properties, 2, chunk) >= 0 && H5Pset_shuffle(properties) >= 0);
  dataset = H5Dcreate2(file, "weights", H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  MUST(dataset >= 0);
  MUST(H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
  MUST(H5Dclose(dataset) >= 0 && H5Pclose(properties) >= 0 && H5Sclose(space) >= 0 && H5Fclose(file) >= 0);
}

static void ckpt_reads(const char *path) {
  ckpt_reader *reader;
  size_t index;
  MUST(ckpt_reader_open(path, &reader) == CKPT_OK);
  MUST(ckpt_reader_find(reader, "weights", &index) == CKPT_OK);
  MUST(ckpt_reader_read(reader, index, back, sizeof back) == CKPT_OK);
  ckpt_reader_free(reader);
}

static void ckpt_writes(const char *path) {
  const int64_t shape[2] = {ROWS, COLUMNS};
  ckpt_model *model;
  MUST(ckpt_model_new(&model) == CKPT_OK);
  MUST(ckpt_model_add(model, "layers/dense/vars/0", CKPT_DTYPE_F32, 2, shape, NULL, data) == CKPT_OK);
  MUST(ckpt_model_save(model, path) == CKPT_OK);
  ckpt_model_free(model);
}

static void host_reads(const char *path) {
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  hid_t dataset = H5Dopen2(file, "/layers/dense/vars/0", H5P_DEFAULT);
  MUST(file >= 0 && dataset >= 0);
  MUST(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, back) >= 0);
  MUST(H5Dclose(dataset) >= 0 && H5Fclose(file) >= 0);
}

static void check_and_forget(void) {
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) {
      MUST(back[i][j] == data[i][j]);
      back[i][j] = -1;
    }
}

int main(void) {
  unsigned major, minor, release;
  MUST(H5get_libversion(&major, &minor, &release) >= 0);
  printf("the host's HDF5 is %u.%u.%u\n", major, minor, release);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < ROWS * COLUMNS; i++)
      data[i / COLUMNS][i % COLUMNS] = (float)(round * 1000 + i) / 8;
    host_writes_in_chunks("host.h5");
    ckpt_reads("host.h5");
    check_and_forget();
    ckpt_writes("ckpt.weights.h5");
    host_reads("ckpt.weights.h5");
    check_and_forget();
  }
  return 0;
}
