/**
 * What agents do for the audit log: derive keys of masks and writers, sign checkpoints, and have
 * the token keep one.
 *
 * Invariants: a checkpoint is composed here, so that the key signs nothing else; what was signed
 * verifies under the key that is returned with it; an agent signs only what is proven to continue
 * what it has signed, what it was given as known, and, where it heeds that, what the token keeps
 * (`continuation.ts`). Knows no entry.
 */
import { createPublicKey, hash, verify } from 'node:crypto';
import { MechanismEnum, ObjectClass, type Session } from 'graphene-pk11';
import { idToBytes } from '../../ids.ts';
import {
  asn1Signature,
  type CheckpointClaim,
  checkpointNote,
  checkpointText,
  spkiOfPoint,
} from '../checkpoint.ts';
import type { ReplyOf, RequestOf, ResumeSettings, ServeSettings, TreeHead } from '../protocol.ts';
import { resumptionNote, resumptionText, signedResumption } from '../resumption.ts';
import { Continuation } from './continuation.ts';
import { AgentFailure } from './failure.ts';
import { keepCheckpoint, latestKept } from './kept-checkpoint.ts';
import { HMAC_SHA512 } from './templates.ts';
import type { FoundObject } from './token-objects.ts';

const MASK_LABEL = Buffer.from('keyward/v1/audit-mask\0', 'latin1');
const WRITER_LABEL = Buffer.from('keyward/v1/audit-writer\0', 'latin1');
const HMAC_BYTES = 64;
const DERIVED_BYTES = 32;
const SIGNATURE_BYTES = 64;
const ROOT_HASH_BYTES = 32;

type TreeHeads = Pick<ResumeSettings, 'generation' | 'left' | 'from' | 'before'>;
type Settings = Pick<ServeSettings, 'environmentId' | 'heedsKeptCheckpoint'>;

/** Derives keys of masks and writers, signs checkpoints, and keeps the last one in the token. */
export class AuditOperations {
  readonly #session: Session;
  readonly #settings: Settings;
  #objects: readonly FoundObject[];
  #spki: Buffer | undefined;
  /** What the next checkpoint must continue. */
  readonly #continuation = new Continuation();

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
    return { key: derived.subarray(0, DERIVED_BYTES) };
  }

  deriveWriterKey({
    replicaId,
    maskKeyId: wanted,
  }: RequestOf<'deriveWriterKey'>): ReplyOf<'deriveWriterKey'> {
    const maskKeyId = this.#objectOf('mask').objectId;
    if (wanted.length > 0 && !wanted.equals(idToBytes(maskKeyId)))
      return { key: Buffer.alloc(0), maskKeyId };
    const { environmentId } = this.#settings;
    const input = Buffer.concat([WRITER_LABEL, idToBytes(environmentId), idToBytes(replicaId)]);
    const derived = this.#sign('mask', HMAC_SHA512, input, HMAC_BYTES);
    return { key: derived.subarray(0, DERIVED_BYTES), maskKeyId };
  }

  signCheckpoint(request: RequestOf<'signCheckpoint'>): ReplyOf<'signCheckpoint'> {
    const claim = this.#claimOf(request);
    const { environmentId, heedsKeptCheckpoint } = this.#settings;
    if (heedsKeptCheckpoint && this.#continuation.isEmpty) this.readKeptCheckpoint();
    const spki = this.#publicKey();
    this.#continuation.heed(request.known, environmentId, spki);
    const obstacle = this.#continuation.obstacleTo(claim, request, spki);
    if (obstacle !== undefined) return obstacle;
    const signature = this.#signText(checkpointText(claim), spki);
    const note = checkpointNote(claim, spki, signature);
    this.#continuation.signed({ claim, note });
    return { note, spki: spki.toString('base64') };
  }

  /** Signs the note that begins a generation. */
  signResumption(request: TreeHeads): ReplyOf<'signResumption'> {
    const { generation, before } = request;
    const left = this.#claimOf(request.left);
    const from = this.#claimOf(request.from, 0);
    if (left.generation >= generation || from.generation >= generation)
      throw new AgentFailure('internal', 'cannot sign the note: its generation is not a later one');
    const spki = this.#publicKey();
    const resumption = { generation, left, from };
    const signature = this.#signText(resumptionText(resumption), spki);
    const { environmentId } = this.#settings;
    return {
      note: resumptionNote(resumption, spki, signature),
      hasSignedBefore:
        before !== null && signedResumption(before, environmentId, spki) !== undefined,
    };
  }

  #signText(content: string, spki: Buffer): Buffer {
    const text = Buffer.from(content);
    const digest = hash('sha256', text, 'buffer');
    const signature = asn1Signature(
      this.#sign('audit-signing', MechanismEnum.ECDSA, digest, SIGNATURE_BYTES),
    );
    const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
    if (!verify('sha256', text, key, signature))
      throw new AgentFailure('token', 'a signature made by the token failed verification');
    return signature;
  }

  #claimOf(head: TreeHead, least = 1): CheckpointClaim {
    const { generation, treeSize } = head;
    const rootHash = Buffer.from(head.rootHash, 'base64');
    const isClaim =
      Number.isSafeInteger(treeSize) && treeSize >= least && rootHash.length === ROOT_HASH_BYTES;
    if (!isClaim || !Number.isSafeInteger(generation) || generation < 1)
      throw new AgentFailure('internal', 'cannot sign the checkpoint: it is not valid');
    return { environmentId: this.#settings.environmentId, generation, treeSize, rootHash };
  }

  readKeptCheckpoint(): ReplyOf<'readKeptCheckpoint'> {
    const kept = latestKept(this.#keeper());
    if (kept !== undefined) this.#continuation.add(kept);
    return { note: kept?.note ?? null };
  }

  readAuditKey(): ReplyOf<'readAuditKey'> {
    return { spki: Buffer.from(this.#publicKey()) };
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
