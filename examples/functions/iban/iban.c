/* A function of lang wasm, in C: says whether each line is an IBAN, in one form (ISO 13616).
 *
 *     slimq fn deploy iban examples/functions/iban
 *     echo 'gb82 west 1234 5698 7654 32' | slimq add iban
 *
 * iban.wasm is made from it by (Debian: apt-get install clang lld wasi-libc libclang-rt-dev-wasm32)
 *
 *     clang --target=wasm32-wasi --sysroot=/usr -Oz -s -o iban.wasm iban.c
 *
 * A batch comes as lines on standard input; for each of them one result line goes to standard output.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

enum { SHORTEST = 15, LONGEST = 34 };

/* Copies what is not a space, in capitals. Returns the length, 0 when it is too long or has what no
 * IBAN has. */
static int normal(const char *line, ssize_t size, char *iban) {
    int length = 0;
    for (ssize_t at = 0; at < size && line[at] != '\n'; at++) {
        unsigned char c = (unsigned char)line[at];
        if (isspace(c))
            continue;
        if (length == LONGEST || c > 127 || !isalnum(c))
            return 0;
        iban[length++] = (char)toupper(c);
    }
    iban[length] = '\0';
    return length;
}

/* Country, check digits and account, rearranged and read as one number, leave 1 when divided by 97. */
static int is_right(const char *iban, int length) {
    int rest = 0;
    for (int at = 0; at < length; at++) {
        char c = iban[(at + 4) % length];
        rest = isdigit((unsigned char)c) ? (rest * 10 + c - '0') % 97
                                         : (rest * 100 + c - 'A' + 10) % 97;
    }
    return rest == 1;
}

int main(void) {
    char *line = NULL, iban[LONGEST + 1];
    size_t room = 0;
    ssize_t size;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* what was said counts, also if a later line is our end */
    while ((size = getline(&line, &room, stdin)) > 0) {
        int length = normal(line, size, iban);
        if (length < SHORTEST || !isalpha((unsigned char)iban[0]) || !isalpha((unsigned char)iban[1]))
            fputs("422 it is not in the form of an IBAN\n", stdout);
        else if (!is_right(iban, length))
            fputs("422 its check digits do not match\n", stdout);
        else {
            fputs("200 ", stdout);
            puts(iban);
        }
    }
    free(line);
    return 0;
}
