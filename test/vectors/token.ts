/**
 * A SoftHSM token of a test file's own, for keys whose bytes are known: what no environment's token
 * has.
 *
 * Every attempt has a session of its own, as a failed call can leave its session in the middle of
 * an operation. Speaks to the library itself, like the agent, since an agent lets nobody bring a
 * key.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Key, KeyType, Module, ObjectClass, type Session, type Slot } from 'graphene-pk11';
import { createSoftHsmToken } from '../../softhsm/token.ts';
import { returnValueOf } from '../../src/hsm/agent/failure.ts';

const CKF_OS_LOCKING_OK = 2;

/** What an attempt returned, or the name of the PKCS#11 error that it ended with. */
export type Outcome<T> =
  | { readonly value: T; readonly error?: undefined }
  | { readonly value?: undefined; readonly error: string };

/** A token that is gone when it is disposed of. */
export class ThrowawayToken implements Disposable {
  readonly #module: Module;
  readonly slot: Slot;
  readonly #directory: string;

  private constructor(module: Module, slot: Slot, directory: string) {
    this.#module = module;
    this.slot = slot;
    this.#directory = directory;
  }

  /** At most one at a time: the library is the whole process's. */
  static async create(): Promise<ThrowawayToken> {
    const directory = mkdtempSync(join(tmpdir(), 'keyward-vectors-'));
    const token = await createSoftHsmToken({
      directory: join(directory, 'token'),
      label: 'keyward-vectors',
    });
    process.env['SOFTHSM2_CONF'] = token.confFile;
    const module = Module.load(token.modulePath);
    module.initialize({ flags: CKF_OS_LOCKING_OK });
    const slot = module.getSlots(0);
    // Stays open: whoever logs in once is logged in for every session until the last one closes.
    slot.open().login(readFileSync(token.pinFile, 'utf8').trim());
    return new ThrowawayToken(module, slot, directory);
  }

  attempt<T>(work: (session: Session) => T): Outcome<T> {
    const session = this.slot.open();
    try {
      return { value: work(session) };
    } catch (error) {
      const returnValue = returnValueOf(error);
      if (returnValue === undefined) throw error;
      return { error: returnValue };
    } finally {
      session.close();
    }
  }

  [Symbol.dispose](): void {
    this.#module.finalize();
    rmSync(this.#directory, { recursive: true });
  }
}

/** Imports a root key: it wraps and unwraps. */
export function importRoot(session: Session, value: Buffer): Key {
  return session
    .create({
      class: ObjectClass.SECRET_KEY,
      keyType: KeyType.AES,
      token: false,
      wrap: true,
      unwrap: true,
      value,
    })
    .toType<Key>();
}

/** For unwrapping: what comes out can be read. */
export const READABLE = {
  class: ObjectClass.SECRET_KEY,
  keyType: KeyType.GENERIC_SECRET,
  token: false,
  sensitive: false,
  extractable: true,
} as const;

/** Imports what is to be wrapped. */
export function importReadable(session: Session, value: Buffer): Key {
  return session.create({ ...READABLE, value }).toType<Key>();
}

/** The bytes of a {@link READABLE} key. */
export function readValue(key: Key): Buffer {
  const value: unknown = key.get('value');
  if (!Buffer.isBuffer(value)) throw new Error('a key without a value');
  return value;
}

/** Imports material: it computes HMACs. */
export function importMaterial(session: Session, value: Buffer): Key {
  return session
    .create({
      class: ObjectClass.SECRET_KEY,
      keyType: KeyType.GENERIC_SECRET,
      token: false,
      sign: true,
      value,
    })
    .toType<Key>();
}
