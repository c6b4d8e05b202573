/**
 * Challenges by which passkeys are registered: kept nowhere, since each authenticates itself.
 *
 * ```
 *  challenge = u64 expiry in milliseconds since 1970 ‖
 *              HMAC-SHA-256(key, "keyward/v1/passkey-challenge" 00 ‖ u64 expiry ‖ caller)
 * ```
 *
 * - One is good for the caller who asked for it, and for five minutes; for a minute more, since
 *   clocks differ.
 * - The key is derived by the HSM, the same for every replica.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Call } from '../call.ts';
import type { Agents } from '../hsm/token-router.ts';
import type { AnyId } from '../ids.ts';

/** Whose key it is: no replica's, and the same for all of them. */
const REGISTRATIONS = '00000000-0000-0000-0000-000000000002' as AnyId;
const LABEL = Buffer.from('keyward/v1/passkey-challenge\0', 'latin1');
const EXPIRY_BYTES = 8;
/** How long a person has to have an authenticator make a passkey. */
export const REGISTRATION_MS = 5 * 60_000;
/** So far may the clocks of replicas and database be from each other. */
const CLOCKS_APART_MS = 60_000;

/** A new challenge. */
export interface RegistrationChallenge {
  readonly challenge: Buffer;
  readonly expiresAt: Date;
}

/** Makes and recognises challenges of registrations. */
export class RegistrationChallenges {
  readonly #agents: Pick<Agents, 'call'>;

  constructor(agents: Pick<Agents, 'call'>) {
    this.#agents = agents;
  }

  /** Returns a challenge for the caller. Throws what agents throw. */
  async make(call: Call): Promise<RegistrationChallenge> {
    const expiresAt = new Date(Date.now() + REGISTRATION_MS);
    return { challenge: await this.#challenge(call, expiresAt.getTime()), expiresAt };
  }

  /**
   * Tells whether it is a challenge that the caller was given, and was good at that time. Throws
   * what agents throw.
   */
  async isGood(call: Call, challenge: Buffer, at: number): Promise<boolean> {
    if (challenge.length < EXPIRY_BYTES) return false;
    const expiry = Number(challenge.readBigUInt64BE(0));
    if (at > expiry + CLOCKS_APART_MS) return false;
    const expected = await this.#challenge(call, expiry);
    return expected.length === challenge.length && timingSafeEqual(expected, challenge);
  }

  async #challenge({ caller, deadline }: Call, expiry: number): Promise<Buffer> {
    const request = { replicaId: REGISTRATIONS, maskKeyId: Buffer.alloc(0) };
    const { key } = await this.#agents.call('deriveWriterKey', request, deadline);
    const time = Buffer.alloc(EXPIRY_BYTES);
    time.writeBigUInt64BE(BigInt(expiry));
    const mac = createHmac('sha256', key).update(LABEL).update(time).update(caller).digest();
    return Buffer.concat([time, mac]);
  }
}
