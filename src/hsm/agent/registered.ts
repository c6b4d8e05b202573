/**
 * Reads what an authenticator has made, out of the attestation object that a registration brings:
 * the passkey that people have approved, without any word of the server's about it.
 *
 * Knows of CBOR (RFC 8949) what occurs there: definite lengths, whole numbers, bytes, text, lists,
 * maps and the plain values. Whether an attestation verifies is not looked at.
 */
import { hash } from 'node:crypto';
import { type AnyId, idFromBytes, UUID_BYTES } from '../../ids.ts';
import type { PasskeyRecord } from '../approval-records.ts';
import { publicKeyOfCose } from '../cose-key.ts';

/** What an attestation object says of a passkey. */
export type RegisteredPasskey = Pick<
  PasskeyRecord,
  'credentialId' | 'algorithm' | 'publicKey' | 'signCount' | 'isBackupEligible' | 'aaguid'
>;

const FLAG = { backupEligible: 0x08, attestedData: 0x40, extensions: 0x80 } as const;
const RP_ID_HASH_BYTES = 32;
const HEAD_BYTES = RP_ID_HASH_BYTES + 5;
const MAX_DEPTH = 8;

/** Returns the passkey. Throws Error for what is none of the relying party. */
export function readRegistered(object: Buffer, relyingPartyId: string): RegisteredPasskey {
  const parts = new Cbor(object).only();
  const data = parts instanceof Map ? parts.get('authData') : undefined;
  if (!Buffer.isBuffer(data) || data.length < HEAD_BYTES + UUID_BYTES + 2)
    throw new Error('it has no authenticator data');
  if (!data.subarray(0, RP_ID_HASH_BYTES).equals(hash('sha256', relyingPartyId, 'buffer')))
    throw new Error('it is of another relying party');
  const flags = data.readUInt8(RP_ID_HASH_BYTES);
  if ((flags & FLAG.attestedData) === 0) throw new Error('it has no passkey');
  const idEnd = HEAD_BYTES + UUID_BYTES + 2 + data.readUInt16BE(HEAD_BYTES + UUID_BYTES);
  const rest = new Cbor(data.subarray(idEnd));
  const key = rest.next();
  if (!(key instanceof Map) || rest.isOver === ((flags & FLAG.extensions) !== 0))
    throw new Error('its authenticator data is damaged');
  return {
    credentialId: Buffer.from(data.subarray(HEAD_BYTES + UUID_BYTES + 2, idEnd)),
    ...publicKeyOfCose(key as ReadonlyMap<number, unknown>),
    signCount: data.readUInt32BE(RP_ID_HASH_BYTES + 1),
    isBackupEligible: (flags & FLAG.backupEligible) !== 0,
    aaguid: idFromBytes<AnyId>(data.subarray(HEAD_BYTES, HEAD_BYTES + UUID_BYTES)),
  };
}

/** Reads values one after another. Each throws Error for what is damaged or not known. */
class Cbor {
  readonly #bytes: Buffer;
  #offset = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isOver(): boolean {
    return this.#offset === this.#bytes.length;
  }

  /** Returns the value that all of the bytes are. */
  only(): unknown {
    const value = this.next();
    if (!this.isOver) throw new Error('something follows it');
    return value;
  }

  next(depth = 0): unknown {
    if (depth > MAX_DEPTH) throw new Error('it is nested too deeply');
    const head = this.#take(1).readUInt8(0);
    const [major, short] = [head >> 5, head & 0x1f];
    if (major === 7) return plain(short);
    const argument = this.#argument(short);
    switch (major) {
      case 0:
        return argument;
      case 1:
        return -1 - argument;
      case 2:
        return this.#take(argument);
      case 3:
        return this.#take(argument).toString('utf8');
      case 4:
        return Array.from({ length: this.#count(argument) }, () => this.next(depth + 1));
      case 5:
        return this.#map(this.#count(argument), depth + 1);
      default:
        throw new Error('it has a tag');
    }
  }

  #map(size: number, depth: number): Map<unknown, unknown> {
    const map = new Map<unknown, unknown>();
    for (let entry = 0; entry < size; entry += 1) {
      const key = this.next(depth);
      if (map.has(key)) throw new Error('it has a member twice');
      map.set(key, this.next(depth));
    }
    return map;
  }

  #argument(short: number): number {
    if (short < 24) return short;
    if (short > 26) throw new Error('a length of it is not known');
    const length = 1 << (short - 24);
    return this.#take(length).readUIntBE(0, length);
  }

  /** A count is not believed that has more values than bytes are left. */
  #count(count: number): number {
    if (count > this.#bytes.length - this.#offset) throw new Error('it ends too early');
    return count;
  }

  #take(length: number): Buffer {
    const end = this.#offset + length;
    if (end > this.#bytes.length) throw new Error('it ends too early');
    const taken = this.#bytes.subarray(this.#offset, end);
    this.#offset = end;
    return taken;
  }
}

function plain(short: number): boolean | null {
  if (short === 20 || short === 21) return short === 21;
  if (short === 22) return null;
  throw new Error('it has a value that is not known');
}
