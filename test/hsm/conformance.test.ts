/**
 * The conformance suites on every PKCS#11 module at hand: SoftHSM always, NSS's softoken where the
 * system has it. Token keys are tried on one module, and moving between two, as the run's seed
 * draws; `test/long/hsm-conformance.test.ts` has all.
 *
 * NSS is the proof that the profile is probed and not guessed: it wants an initialisation string,
 * and it knows no way to keep CKA_COPYABLE and CKA_LOCAL of a token object.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { PKCS11 } from 'pkcs11js';
import { copyToken, createSoftHsmToken } from '../../softhsm/token.ts';
import { COMPILED } from '../support/compiled.ts';
import { drawHere, SEED } from '../support/random.ts';
import { conformance } from './conformance.ts';
import { movingConformance } from './moving.ts';
import { tokenKeysConformance } from './token-keys.ts';
import type { FreshToken } from './token-keys-rig.ts';

const SOFTOKEN = [
  '/usr/lib/x86_64-linux-gnu/libsoftokn3.so',
  '/usr/lib/aarch64-linux-gnu/libsoftokn3.so',
  '/usr/lib64/libsoftokn3.so',
].find(existsSync);

function newDirectory(): string {
  const parent = process.env['KEYWARD_TEST_DIRECTORY'];
  if (parent === undefined) throw new Error('run tests by npm test');
  return mkdtempSync(join(parent, 'conformance-'));
}

const emptyToken = join(newDirectory(), 'token');
await createSoftHsmToken({ directory: emptyToken, label: 'conformance' });

const onSoftHsm = {
  name: 'SoftHSM',
  skip: false as const,
  newToken: newSoftHsmToken,
};
const onSoftoken = {
  name: 'NSS softoken',
  skip: SOFTOKEN === undefined && 'libsoftokn3.so is not installed here',
  newToken: () => newSoftokenToken(SOFTOKEN ?? ''),
};
type Module = typeof onSoftHsm | typeof onSoftoken;
const MODULES = [onSoftHsm, onSoftoken];
const MOVES = [
  [onSoftHsm, onSoftHsm],
  [onSoftHsm, onSoftoken],
  [onSoftoken, onSoftHsm],
] as const;

console.log(`seed ${SEED}`);

for (const { name, skip, newToken } of MODULES) conformance(name, { skip }, newToken);

/** One of those whose modules are here, in `npm test`; those that are not are skipped by name. */
function drawModules<Some extends readonly Module[]>(all: readonly Some[]): readonly Some[] {
  const isHere = (modules: Some) => modules.every(({ skip }) => skip === false);
  return [...drawHere(all.filter(isHere)), ...all.filter((modules) => !isHere(modules))];
}

for (const [{ name, skip, newToken }] of drawModules(MODULES.map((module) => [module] as const)))
  tokenKeysConformance(name, { skip }, newToken);

for (const [source, target] of drawModules(MOVES))
  movingConformance(
    `${source.name} to ${target.name}`,
    { skip: source.skip || target.skip },
    source.newToken,
    target.newToken,
  );

function newSoftHsmToken(): FreshToken {
  const directory = newDirectory();
  const { modulePath, confFile, pinFile, label } = copyToken(
    emptyToken,
    join(directory, 'token'),
    'conformance',
  );
  return {
    settings: { module: modulePath, token: label, pinFile, waivers: [] },
    environment: { SOFTHSM2_CONF: confFile, ...COMPILED },
    dispose: () => rmSync(directory, { recursive: true, force: true }),
  };
}

/** NSS's certificate database, with a PIN. */
function newSoftokenToken(module: string): FreshToken {
  const directory = newDirectory();
  const database = join(directory, 'nss');
  mkdirSync(database);
  const pinFile = join(directory, 'pin');
  writeFileSync(pinFile, 'nss-user-pin\n', { mode: 0o600 });
  const moduleParameters = `configdir='sql:${database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=`;
  const { PKCS11: Library } = createRequire(import.meta.url)('pkcs11js') as {
    PKCS11: new () => PKCS11;
  };
  const library = new Library();
  library.load(module);
  library.C_Initialize({ libraryParameters: moduleParameters, flags: 2 });
  const slot = library.C_GetSlotList(true)[1];
  if (slot === undefined) throw new Error('NSS has no slot for its database');
  const session = library.C_OpenSession(slot, 6);
  library.C_Login(session, 0, '');
  library.C_InitPIN(session, 'nss-user-pin');
  library.C_Finalize();
  return {
    settings: {
      module,
      moduleParameters,
      token: 'NSS Certificate DB',
      pinFile,
      waivers: ['copyable', 'local'],
    },
    environment: { ...COMPILED },
    dispose: () => rmSync(directory, { recursive: true, force: true }),
  };
}
