/*
 * A PKCS#11 module that passes every function on to the real one, and misbehaves on the way as a control file says.
 *
 * KEYWARD_FAULTS_MODULE names the real module, KEYWARD_FAULTS_CONTROL the control file. Its first line is the path of
 * the state file; every further line is a rule:
 *
 *   <function, or *> <what> [argument [argument]] [after <n>] [times <n>]
 *
 * `after` lets that many calls pass first, `times` bounds how many it meets. Without `what` (`count`), a rule counts.
 *
 *   return <CKR>          answers that, and doesn't ask the real module
 *   delay <ms>            sleeps first
 *   hang                  sleeps until the control file no longer has this line in this place
 *   kill | crash          ends the process: SIGKILL, SIGSEGV
 *   stay                  the process will hang in exit(), as a library does that says goodbye to a device that is gone
 *   fork                  leaves a child that keeps every descriptor open, as a library with a daemon of its own does,
 *                         until the control file no longer has this line in this place
 *   print <text>          writes to standard error
 *   garbage               writes bytes that are no frame to descriptor 3
 *   lose-session          closes the session under the caller, then passes on
 *   flip                  inverts the output's first byte (C_Sign, C_WrapKey, C_GenerateRandom)
 *   shorten <n>           the output is that much shorter
 *   flags <bits>          C_GetTokenInfo: further flags
 *   hide <mechanism>      C_GetMechanismList: is not in it
 *   report <attribute> <0|1>   C_GetAttributeValue: what a CK_BBOOL is said to be
 *
 * The state file is mapped by all processes that use the module: for each rule, 64 bits of how many calls it has seen
 * and 64 bits of how many it has met. So a fault meant for one call meets one call, however often agents are replaced,
 * and a test reads from it that a call is now inside. Asking for an output's length is not counted: libraries differ in
 * how often they do.
 *
 * Every function takes at most eight words, so one wrapper fits all; and of the types only what is looked at is here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long word;
typedef word function(word, word, word, word, word, word, word, word);

enum { CKR_OK = 0, CKR_GENERAL_ERROR = 5, MAX_RULES = 64, TOKEN_INFO_FLAGS = 96 };

/* In the order of CK_FUNCTION_LIST (PKCS#11 2.40, section 5). */
#define FUNCTIONS(F) \
  F(C_Initialize) F(C_Finalize) F(C_GetInfo) F(C_GetFunctionList) F(C_GetSlotList) F(C_GetSlotInfo) \
  F(C_GetTokenInfo) F(C_GetMechanismList) F(C_GetMechanismInfo) F(C_InitToken) F(C_InitPIN) F(C_SetPIN) \
  F(C_OpenSession) F(C_CloseSession) F(C_CloseAllSessions) F(C_GetSessionInfo) F(C_GetOperationState) \
  F(C_SetOperationState) F(C_Login) F(C_Logout) F(C_CreateObject) F(C_CopyObject) F(C_DestroyObject) \
  F(C_GetObjectSize) F(C_GetAttributeValue) F(C_SetAttributeValue) F(C_FindObjectsInit) F(C_FindObjects) \
  F(C_FindObjectsFinal) F(C_EncryptInit) F(C_Encrypt) F(C_EncryptUpdate) F(C_EncryptFinal) F(C_DecryptInit) \
  F(C_Decrypt) F(C_DecryptUpdate) F(C_DecryptFinal) F(C_DigestInit) F(C_Digest) F(C_DigestUpdate) F(C_DigestKey) \
  F(C_DigestFinal) F(C_SignInit) F(C_Sign) F(C_SignUpdate) F(C_SignFinal) F(C_SignRecoverInit) F(C_SignRecover) \
  F(C_VerifyInit) F(C_Verify) F(C_VerifyUpdate) F(C_VerifyFinal) F(C_VerifyRecoverInit) F(C_VerifyRecover) \
  F(C_DigestEncryptUpdate) F(C_DecryptDigestUpdate) F(C_SignEncryptUpdate) F(C_DecryptVerifyUpdate) \
  F(C_GenerateKey) F(C_GenerateKeyPair) F(C_WrapKey) F(C_UnwrapKey) F(C_DeriveKey) F(C_SeedRandom) \
  F(C_GenerateRandom) F(C_GetFunctionStatus) F(C_CancelFunction) F(C_WaitForSlotEvent)

enum {
#define INDEX(name) name##_index,
  FUNCTIONS(INDEX) FUNCTION_COUNT
};

static const char *const names[] = {
#define NAME(name) #name,
  FUNCTIONS(NAME)
};

struct function_list {
  unsigned char major, minor;
  function *functions[FUNCTION_COUNT];
};
struct attribute {
  word type;
  unsigned char *value;
  word length;
};

struct rule {
  char function[32], what[16], text[64], line[256];
  word argument, second, after, times;
};
struct counts {
  uint64_t seen, met;
};

static const struct function_list *real;
static struct rule rules[MAX_RULES];
static int rule_count;
static struct counts *counts;
static struct timespec read_at;
static ino_t read_inode;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what) {
  fprintf(stderr, "pkcs11 faults: %s\n", what);
  abort();
}

static void parse(const char *line, struct rule *rule) {
  char copy[256], *rest = NULL, *part;
  memset(rule, 0, sizeof *rule);
  rule->times = ~0UL;
  snprintf(rule->line, sizeof rule->line, "%s", line);
  snprintf(copy, sizeof copy, "%s", line);
  snprintf(rule->function, sizeof rule->function, "%s", strtok_r(copy, " ", &rest));
  part = strtok_r(NULL, " ", &rest);
  snprintf(rule->what, sizeof rule->what, "%s", part ? part : "count");
  for (int position = 0; (part = strtok_r(NULL, " ", &rest)); position++) {
    if (!strcmp(part, "after") && (part = strtok_r(NULL, " ", &rest))) rule->after = strtoul(part, NULL, 0);
    else if (part && !strcmp(part, "times") && (part = strtok_r(NULL, " ", &rest))) rule->times = strtoul(part, NULL, 0);
    else if (!part) fail(line);
    else if (position == 0) {
      rule->argument = strtoul(part, NULL, 0);
      snprintf(rule->text, sizeof rule->text, "%s", part);
    } else rule->second = strtoul(part, NULL, 0);
  }
}

static void map_state(const char *path) {
  int descriptor = open(path, O_RDWR | O_CLOEXEC);
  if (counts) munmap(counts, sizeof(struct counts) * MAX_RULES);
  counts = mmap(NULL, sizeof(struct counts) * MAX_RULES, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (counts == MAP_FAILED) fail("the state file can't be mapped");
  close(descriptor);
}

/* Reads the control file again if it is another than was read last. With the lock held. */
static void refresh(void) {
  const char *path = getenv("KEYWARD_FAULTS_CONTROL");
  struct stat now;
  char line[256];
  FILE *file;
  if (!path || stat(path, &now)) return;
  if (now.st_ino == read_inode && !memcmp(&now.st_mtim, &read_at, sizeof read_at)) return;
  file = fopen(path, "re");
  if (!file) return;
  rule_count = 0;
  for (int first = 1; fgets(line, sizeof line, file); first = 0) {
    line[strcspn(line, "\n")] = 0;
    if (first) map_state(line);
    else if (line[0] && rule_count < MAX_RULES) parse(line, &rules[rule_count++]);
  }
  fclose(file);
  read_inode = now.st_ino;
  read_at = now.st_mtim;
}

/* Which rules meet this call. They are copied: the file may change while one of them sleeps. */
static int meeting(const char *name, struct rule *met, int *places) {
  int count = 0;
  pthread_mutex_lock(&lock);
  refresh();
  for (int i = 0; i < rule_count; i++) {
    struct rule *rule = &rules[i];
    if (strcmp(rule->function, "*") && strcmp(rule->function, name)) continue;
    uint64_t before = __atomic_fetch_add(&counts[i].seen, 1, __ATOMIC_SEQ_CST);
    if (before < rule->after || before - rule->after >= rule->times) continue;
    __atomic_fetch_add(&counts[i].met, 1, __ATOMIC_SEQ_CST);
    places[count] = i;
    met[count++] = *rule;
  }
  pthread_mutex_unlock(&lock);
  return count;
}

static void sleep_ms(word ms) {
  struct timespec time = {ms / 1000, (ms % 1000) * 1000000L};
  nanosleep(&time, NULL);
}

static void hang(const struct rule *rule, int place) {
  for (int there = 1; there;) {
    sleep_ms(5);
    pthread_mutex_lock(&lock);
    refresh();
    there = place < rule_count && !strcmp(rules[place].line, rule->line);
    pthread_mutex_unlock(&lock);
  }
}

static void never_return(void) {
  for (;;) pause();
}

static void leave_child(const struct rule *rule, int place) {
  if (fork()) return;
  signal(SIGTERM, SIG_DFL);
  hang(rule, place);
  _exit(0);
}

/* What happens before the real module is asked; returns 1 if it isn't to be, with the answer. */
static int before_call(const struct rule *rule, int place, word session, word *answer) {
  const char *what = rule->what;
  if (!strcmp(what, "delay")) sleep_ms(rule->argument);
  else if (!strcmp(what, "hang")) hang(rule, place);
  else if (!strcmp(what, "kill")) kill(getpid(), SIGKILL);
  else if (!strcmp(what, "crash")) signal(SIGSEGV, SIG_DFL), raise(SIGSEGV);
  else if (!strcmp(what, "stay")) atexit(never_return);
  else if (!strcmp(what, "fork")) leave_child(rule, place);
  else if (!strcmp(what, "print")) fprintf(stderr, "%s\n", rule->text);
  else if (!strcmp(what, "garbage")) (void)!write(3, "\xff\xff\xff\xff a library wrote this", 25);
  else if (!strcmp(what, "lose-session")) real->functions[C_CloseSession_index](session, 0, 0, 0, 0, 0, 0, 0);
  else if (!strcmp(what, "return")) return *answer = rule->argument, 1;
  return 0;
}

static void hide_mechanism(word *list, word *count, word mechanism) {
  word kept = 0;
  for (word i = 0; i < *count; i++)
    if (list[i] != mechanism) list[kept++] = list[i];
  *count = kept;
}

/* What happens to what the real module has answered. */
static void after_call(const struct rule *rule, int index, unsigned char *output, word *length, word b, word c, word d) {
  const char *what = rule->what;
  if (!strcmp(what, "flip") && output) output[0] ^= 0xff;
  else if (!strcmp(what, "shorten") && length) *length -= rule->argument;
  else if (!strcmp(what, "flags") && index == C_GetTokenInfo_index) *(word *)(b + TOKEN_INFO_FLAGS) |= rule->argument;
  else if (!strcmp(what, "hide") && index == C_GetMechanismList_index) hide_mechanism((word *)b, (word *)c, rule->argument);
  else if (!strcmp(what, "report") && index == C_GetAttributeValue_index)
    for (word i = 0; i < d; i++) {
      struct attribute *attribute = (struct attribute *)c + i;
      if (attribute->type == rule->argument && attribute->value && attribute->length == 1)
        *attribute->value = (unsigned char)rule->second;
    }
}

static word pass(int index, word a, word b, word c, word d, word e, word f, word g, word h) {
  struct rule met[MAX_RULES];
  int places[MAX_RULES], count;
  unsigned char *output = NULL;
  word *length = NULL, answer;
  if (index == C_Sign_index) output = (unsigned char *)d, length = (word *)e;
  else if (index == C_WrapKey_index) output = (unsigned char *)e, length = (word *)f;
  else if (index == C_GenerateRandom_index) output = (unsigned char *)b;
  else if (index == C_GetMechanismList_index) output = (unsigned char *)b, length = (word *)c;
  if (length && !output) return real->functions[index](a, b, c, d, e, f, g, h);
  count = meeting(names[index], met, places);
  for (int i = 0; i < count; i++)
    if (before_call(&met[i], places[i], a, &answer)) return answer;
  answer = real->functions[index](a, b, c, d, e, f, g, h);
  for (int i = 0; i < count && answer == CKR_OK; i++) after_call(&met[i], index, output, length, b, c, d);
  return answer;
}

#define WRAPPER(name) \
  static word faulty_##name(word a, word b, word c, word d, word e, word f, word g, word h) { \
    return pass(name##_index, a, b, c, d, e, f, g, h); \
  }
FUNCTIONS(WRAPPER)

static struct function_list faulty = {
  2, 40, {
#define ENTRY(name) faulty_##name,
    FUNCTIONS(ENTRY)
  },
};

__attribute__((visibility("default"))) word C_GetFunctionList(const struct function_list **list) {
  const char *path = getenv("KEYWARD_FAULTS_MODULE");
  void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  word (*get)(const struct function_list **) = NULL;
  if (library) *(void **)&get = dlsym(library, "C_GetFunctionList");
  if (!get) {
    fprintf(stderr, "pkcs11 faults: KEYWARD_FAULTS_MODULE is no module: %s\n", path ? dlerror() : "not set");
    return CKR_GENERAL_ERROR;
  }
  *list = &faulty;
  return get(&real);
}
