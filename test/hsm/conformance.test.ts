/**
 * The conformance suites on every PKCS#11 module at hand: SoftHSM always, NSS's softoken where the
 * system has it.
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

for (const suite of [conformance, tokenKeysConformance]) {
  suite('SoftHSM', { skip: false }, newSoftHsmToken);
  suite(
    'NSS softoken',
    { skip: SOFTOKEN === undefined && 'libsoftokn3.so is not installed here' },
    () => newSoftokenToken(SOFTOKEN ?? ''),
  );
}

movingConformance('SoftHSM to SoftHSM', { skip: false }, newSoftHsmToken, newSoftHsmToken);
const softoken = { skip: SOFTOKEN === undefined && 'libsoftokn3.so is not installed here' };
movingConformance('SoftHSM to NSS softoken', softoken, newSoftHsmToken, () =>
  newSoftokenToken(SOFTOKEN ?? ''),
);
movingConformance(
  'NSS softoken to SoftHSM',
  softoken,
  () => newSoftokenToken(SOFTOKEN ?? ''),
  newSoftHsmToken,
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
