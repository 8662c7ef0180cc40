/* Compare the NEON path with the portable one; built for aarch64 and run by tests/test_cpu_kernels.py. */
#include "../chatglm/kernels/quantization_kernels.c"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    const int64_t rows[] = {1, 3, 5, 13, 4}, columns[] = {1024, 1000, 34, 512, 2}, outputs[] = {20, 33, 7, 130, 1};
    for (int bits = 4; bits <= 8; bits += 4)
        for (int shape = 0; shape < 5; shape++) {
            const int64_t n = rows[shape], i = columns[shape], o = outputs[shape], blocks = (i + BLOCK - 1) / BLOCK;
            uint8_t *weight = malloc((size_t)(o * i * bits / 8));
            uint16_t *weight_scale = malloc((size_t)o * sizeof *weight_scale);
            float *input = malloc((size_t)(n * i) * sizeof *input), *bias = malloc((size_t)o * sizeof *bias), *output[2];
            int8_t *quantized = malloc((size_t)(n * blocks * BLOCK));
            float *scale = malloc((size_t)(n * blocks * LANES) * sizeof *scale);
            float *total = malloc((size_t)(n * blocks) * sizeof *total);
            for (int64_t k = 0; k < o * i * bits / 8; k++) weight[k] = (uint8_t)(rand() >> 7);
            for (int64_t k = 0; k < o; k++) {
                weight_scale[k] = (uint16_t)(0x1c00 + rand() % 256);
                bias[k] = (float)(rand() % 100) / 100;
            }
            for (int64_t k = 0; k < n * i; k++) /* every fifth stretch of 64 columns too small to be rounded */
                input[k] = (float)(rand() % 2001 - 1000) / 1000 * (k / 64 % 5 ? 1 : 1e-39f);
            const int32_t paths[2] = {PORTABLE, NEON};
            for (int p = 0; p < 2; p++) {
                output[p] = malloc((size_t)(n * o) * sizeof(float));
                memset(output[p], 0x7f, (size_t)(n * o) * sizeof(float));
                multiply_quantized(paths[p], bits, 1, FLOAT32, input, n, i, weight, weight_scale, bias, o, output[p],
                                   quantized, scale, total, 1);
            }
            double difference = 0, size = 0;
            for (int64_t k = 0; k < n * o; k++) {
                difference += pow(output[0][k] - output[1][k], 2);
                size += pow(output[0][k], 2);
            }
            printf("%s\n", supports_path(NEON) && difference <= 1e-11 * size ? "equal" : "different");
        }
    return 0;
}
