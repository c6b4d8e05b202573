/**
 * What agents do for the audit log: derive masks' keys, sign checkpoints, and have the token keep
 * one.
 *
 * Invariants: a checkpoint is composed here, so that the key signs nothing else; what was signed
 * verifies under the key that is returned with it; an agent that has signed a checkpoint, or knows
 * of one that the token keeps, signs none that is shorter, nor another of that size. Knows no
 * entry.
 */
import { createPublicKey, hash, verify } from 'node:crypto';
import { MechanismEnum, ObjectClass, type Session } from 'graphene-pk11';
import { idToBytes } from '../../ids.ts';
import {
  asn1Signature,
  type CheckpointClaim,
  checkpointNote,
  checkpointText,
  follows,
  spkiOfPoint,
} from '../checkpoint.ts';
import type { ReplyOf, RequestOf, ServeSettings } from '../protocol.ts';
import { AgentFailure } from './failure.ts';
import { keepCheckpoint, latestKept } from './kept-checkpoint.ts';
import { HMAC_SHA512 } from './templates.ts';
import type { FoundObject } from './token-objects.ts';

const MASK_LABEL = Buffer.from('keyward/v1/audit-mask\0', 'latin1');
const HMAC_BYTES = 64;
const MASK_KEY_BYTES = 32;
const SIGNATURE_BYTES = 64;
const ROOT_HASH_BYTES = 32;

type Settings = Pick<ServeSettings, 'environmentId' | 'heedsKeptCheckpoint'>;

/** Derives keys of masks, signs checkpoints, and keeps the last one in the token. */
export class AuditOperations {
  readonly #session: Session;
  readonly #settings: Settings;
  #objects: readonly FoundObject[];
  #spki: Buffer | undefined;
  /** The latest that is known of, and so what the next must follow. */
  #signed: CheckpointClaim | undefined;

  constructor(session: Session, settings: Settings, objects: readonly FoundObject[]) {
    this.#session = session;
    this.#settings = settings;
    this.#objects = objects;
  }

  /** Uses these token objects from now on. */
  hold(objects: readonly FoundObject[]): void {
    this.#objects = objects;
  }

  deriveMaskKey({ tenantId, period }: RequestOf<'deriveMaskKey'>): ReplyOf<'deriveMaskKey'> {
    const { environmentId } = this.#settings;
    const time = Buffer.alloc(4);
    time.writeUInt32BE(period);
    const input = Buffer.concat([MASK_LABEL, idToBytes(environmentId), idToBytes(tenantId), time]);
    const derived = this.#sign('mask', HMAC_SHA512, input, HMAC_BYTES);
    return { key: derived.subarray(0, MASK_KEY_BYTES) };
  }

  signCheckpoint(request: RequestOf<'signCheckpoint'>): ReplyOf<'signCheckpoint'> {
    const { generation, treeSize } = request;
    const rootHash = Buffer.from(request.rootHash, 'base64');
    const isClaim =
      Number.isSafeInteger(treeSize) && treeSize >= 1 && rootHash.length === ROOT_HASH_BYTES;
    if (!isClaim || !Number.isSafeInteger(generation) || generation < 1)
      throw new AgentFailure('internal', 'cannot sign the checkpoint: it is not valid');
    const claim = { environmentId: this.#settings.environmentId, generation, treeSize, rootHash };
    if (this.#settings.heedsKeptCheckpoint && this.#signed === undefined) this.readKeptCheckpoint();
    if (this.#signed !== undefined && !follows(claim, this.#signed))
      return { conflictsWith: this.#signed.treeSize };
    const text = Buffer.from(checkpointText(claim));
    const digest = hash('sha256', text, 'buffer');
    const signature = asn1Signature(
      this.#sign('audit-signing', MechanismEnum.ECDSA, digest, SIGNATURE_BYTES),
    );
    const spki = this.#publicKey();
    const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
    if (!verify('sha256', text, key, signature))
      throw new AgentFailure('token', 'a signature made by the token failed verification');
    this.#signed = claim;
    return { note: checkpointNote(claim, spki, signature), spki: spki.toString('base64') };
  }

  readKeptCheckpoint(): ReplyOf<'readKeptCheckpoint'> {
    const kept = latestKept(this.#keeper());
    if (kept !== undefined && (this.#signed === undefined || follows(kept.claim, this.#signed)))
      this.#signed = kept.claim;
    return { note: kept?.note ?? null };
  }

  /** Throws `refused`. */
  keepCheckpoint({ profile, note }: Pick<RequestOf<'keepCheckpoint'>, 'profile' | 'note'>): void {
    keepCheckpoint(this.#keeper(), profile, note);
  }

  #keeper() {
    const { environmentId } = this.#settings;
    return { session: this.#session, environmentId, spki: this.#publicKey() };
  }

  #sign(role: FoundObject['role'], mechanism: number, input: Buffer, length: number): Buffer {
    const { lib, handle } = this.#session;
    lib.C_SignInit(handle, { mechanism }, this.#objectOf(role).handle.handle);
    const output = lib.C_Sign(handle, input, Buffer.alloc(length));
    if (output.length !== length)
      throw new AgentFailure('token', `the ${role} key signs with ${output.length} bytes`);
    return output;
  }

  #objectOf(role: FoundObject['role']): FoundObject {
    const object = this.#objects.find((each) => each.role === role);
    if (object === undefined) throw new AgentFailure('token-object-missing', `no ${role} key here`);
    return object;
  }

  #publicKey(): Buffer {
    this.#spki ??= this.#readPublicKey();
    return this.#spki;
  }

  #readPublicKey(): Buffer {
    const { objectId } = this.#objectOf('audit-signing');
    const found = this.#session.find({
      class: ObjectClass.PUBLIC_KEY,
      token: true,
      id: idToBytes(objectId),
    });
    const point: unknown = found.length === 1 ? found.items(0).get('pointEC') : undefined;
    const spki = Buffer.isBuffer(point) ? spkiOfPoint(point) : undefined;
    if (spki === undefined)
      throw new AgentFailure(
        'token-object-missing',
        'no public half of the audit-signing key here',
      );
    return spki;
  }
}
