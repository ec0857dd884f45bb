/* test_kdf.c - KDF2 against values computed with Python's hmac and hashlib. */
#include "check.h"
#include "kdf.h"

static void check(const char *input, const char *first, const char *second) {
    uint8_t key[MH_KEY_LEN], out1[MH_KEY_LEN], out2[MH_KEY_LEN];
    char hex[2 * MH_KEY_LEN + 1];
    for (uint8_t i = 0; i < MH_KEY_LEN; i++)
        key[i] = i;
    CHECK(mh_kdf2(key, (const uint8_t *)input, strlen(input), out1, out2));
    for (size_t i = 0; i < MH_KEY_LEN; i++)
        snprintf(hex + 2 * i, 3, "%02x", out1[i]);
    CHECK(strcmp(hex, first) == 0);
    for (size_t i = 0; i < MH_KEY_LEN; i++)
        snprintf(hex + 2 * i, 3, "%02x", out2[i]);
    CHECK(strcmp(hex, second) == 0);
}

static void kdf2_gives_the_known_answers(void) {
    check("", "7a38c34bf2b8738d7374ca77c44ecb309a11d2b2528304fa86052c365e722624",
          "1a17621f346abdc520746a9fb64d8eb03231d674fc15687537b0780fd9c060fd");
    check("abc", "c67e0b211ebf48c12c6d41da8fcee207d4c325a8c30f054d97401b14ed212f9f",
          "923b032867c597d1df124053325e553b104bf3b76180a46e0c21b44001ec50f6");
}

int main(void) {
    RUN(kdf2_gives_the_known_answers);
    return 0;
}
