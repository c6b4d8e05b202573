/**
 * Control of `pkcs11.c`, the PKCS#11 module that misbehaves as it is told: building it, telling it,
 * and reading how often each fault has been met.
 *
 * Invariant: a set of faults replaces the one before in one step, for every process that uses the
 * module, and counts from zero. Knows what a control and a state file look like; no test, no
 * service.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const SOURCE = join(import.meta.dirname, 'pkcs11.c');
/** As in `pkcs11.c`: for each of 64 rules, two 64-bit counters. */
const STATE_BYTES = 64 * 16;

/** PKCS#11's numbers, as far as faults are made of them. */
export const CKR = {
  HOST_MEMORY: 0x02,
  GENERAL_ERROR: 0x05,
  FUNCTION_FAILED: 0x06,
  DEVICE_ERROR: 0x30,
  DEVICE_MEMORY: 0x31,
  DEVICE_REMOVED: 0x32,
  KEY_HANDLE_INVALID: 0x60,
  OBJECT_HANDLE_INVALID: 0x82,
  OPERATION_ACTIVE: 0x90,
  PIN_INCORRECT: 0xa0,
  PIN_LOCKED: 0xa4,
  SESSION_CLOSED: 0xb0,
  SESSION_COUNT: 0xb1,
  SESSION_HANDLE_INVALID: 0xb3,
  TOKEN_NOT_PRESENT: 0xe0,
  USER_NOT_LOGGED_IN: 0x101,
  /** A number of a vendor's own, which no library has a name for. */
  VENDOR_DEFINED: 0x80000123,
} as const;
export const CKF = {
  USER_PIN_COUNT_LOW: 0x10000,
  USER_PIN_FINAL_TRY: 0x20000,
  USER_PIN_LOCKED: 0x40000,
} as const;

/** The module over one token. */
export interface Pkcs11Faults {
  /** The service's settings with which its agents use the module. */
  readonly variables: Readonly<Record<string, string>>;
  /**
   * The whole of what goes wrong from now on, a rule each, as `pkcs11.c` explains them; nothing
   * without rules.
   */
  set(...rules: readonly string[]): void;
  /** How many calls the rule in this place has met since {@link set}. */
  met(place?: number): number;
}

/**
 * Puts the module between a service and its token; `variables` are those of the token, `directory`
 * one of its own.
 */
export function faultsFor(
  directory: string,
  variables: Readonly<Record<string, string>>,
): Pkcs11Faults {
  mkdirSync(directory, { recursive: true });
  const control = join(directory, 'control');
  let generation = 0;
  let state = '';
  const faults: Pkcs11Faults = {
    variables: {
      ...variables,
      KEYWARD_HSM_MODULE: build(process.env['KEYWARD_TEST_DIRECTORY'] ?? directory),
      KEYWARD_HSM_ENVIRONMENT: [
        variables['KEYWARD_HSM_ENVIRONMENT'],
        'KEYWARD_FAULTS_MODULE',
        'KEYWARD_FAULTS_CONTROL',
      ].join(','),
      KEYWARD_FAULTS_MODULE: variables['KEYWARD_HSM_MODULE'] ?? '',
      KEYWARD_FAULTS_CONTROL: control,
    },
    set: (...rules) => {
      generation += 1;
      state = join(directory, `state-${generation}`);
      writeFileSync(state, Buffer.alloc(STATE_BYTES));
      writeFileSync(`${control}.new`, [state, ...rules, ''].join('\n'));
      renameSync(`${control}.new`, control);
    },
    met: (place = 0) => Number(readFileSync(state).readBigUInt64LE(place * 16 + 8)),
  };
  faults.set();
  return faults;
}

/** Returns the module's path, compiled once per run of the tests, or per folder of a bench. */
function build(parent: string): string {
  const hash = createHash('sha256').update(readFileSync(SOURCE)).digest('hex').slice(0, 16);
  const library = join(parent, `pkcs11-faults-${hash}.so`);
  if (!existsSync(library)) {
    const unfinished = `${library}.${process.pid}`;
    const options = [
      '-std=gnu11',
      '-Wall',
      '-Wextra',
      '-Werror',
      '-O1',
      '-fvisibility=hidden',
      '-shared',
      '-fPIC',
    ];
    execFileSync(process.env['CC'] ?? 'cc', [
      ...options,
      '-o',
      unfinished,
      SOURCE,
      '-ldl',
      '-lpthread',
    ]);
    renameSync(unfinished, library);
  }
  return library;
}
