/**
 * The public face of `keyward-client`: {@link connect}, {@link KeywardClient}, and the types of its
 * calls.
 *
 * The methods are generated, one for each RPC; those are here that the contract's types say too
 * little of. Knows nothing of the wire (`wire.ts`), of deadlines and retries (`call.ts`), and
 * nothing of the server.
 *
 *     using keyward = connect({ address, caFile, certFile, keyFile });
 *     const { ciphertext } = await keyward.encrypt({ name: 'tenants/demo/keys/a', plaintext });
 */
import { type CallOptions, Transport } from './call.ts';
import { Checksums } from './checksums.ts';
import { Envelope, type EnvelopeOptions } from './envelope/envelope.ts';
import { Calls } from './generated/calls.ts';
import type * as m from './messages.ts';
import {
  type ConnectOptions,
  type EnvironmentOptions,
  transportOptions,
  withEnvironment,
} from './options.ts';
import { methods } from './wire.ts';

export { approvalChallenge } from './approvals.ts';
export { readAuditEntry } from './audit/entry.ts';
export { type AuditProblem, AuditVerificationError } from './audit/errors.ts';
export {
  type AuditExport,
  type AuditSource,
  type ExportAuditLogOptions,
  exportAuditLog,
} from './audit/export.ts';
export type { AuditResumption, AuditTreeHead } from './audit/resumptions.ts';
export {
  type AuditState,
  type AuditStateItem,
  type AuditStateKey,
  type AuditStateOptions,
  auditStateAt,
} from './audit/state.ts';
export {
  type ConsistencyClaim,
  type InclusionClaim,
  leafHash as auditLeafHash,
  verifyConsistency as verifyAuditConsistency,
  verifyInclusion as verifyAuditInclusion,
} from './audit/tree.ts';
export {
  type AuditExportReport,
  type VerifyAuditExportOptions,
  verifyAuditExport,
} from './audit/verify.ts';
export type { CallOptions } from './call.ts';
export type { DataKeyCache } from './envelope/data-keys.ts';
export type {
  Binding,
  Envelope,
  EnvelopeOptions,
  FieldOptions,
  Opening,
  Rewrapped,
} from './envelope/envelope.ts';
export { EnvelopeError } from './envelope/errors.ts';
export { type FieldViolation, KeywardError, type StatusName } from './errors.ts';
export type {
  CallEnd,
  CallRetry,
  ClientCall,
  ConnectionEvent,
  Hooks,
  ReloadEvent,
  TraceHeaders,
} from './hooks.ts';
export type { ListOptions, WalkOptions } from './lists.ts';
export type * from './messages.ts';
export { type OpenTelemetryApi, openTelemetryHooks } from './opentelemetry.ts';
export type { ClientOptions, ConnectOptions, EnvironmentOptions } from './options.ts';
export type { StepUp } from './proofs.ts';
export { SettingsError } from './settings/errors.ts';
export type { Token } from './token.ts';

/**
 * Returns a client of the service: the one that the options name, or, where they name none, the one
 * of `KEYWARD_*` and the user's profile. Connects when first used, so this never waits. Throws a
 * TypeError for options that make no sense, and a {@link SettingsError} for a setting or a file
 * that can't be used.
 */
export function connect(options: ConnectOptions | EnvironmentOptions = {}): KeywardClient {
  return new KeywardClient(options);
}

/**
 * Typed calls of all services. Every call but those that answer as a stream has a deadline, and
 * rejects with a `KeywardError`, or with a TypeError before anything is sent when an argument
 * is of the wrong type. One client serves any number of calls at once, over one connection to each
 * address that it needs; its owner closes it.
 */
export class KeywardClient extends Calls {
  readonly #transport: Transport;
  readonly #caching = new Set<WeakRef<Envelope>>();
  readonly #forgotten = new FinalizationRegistry<WeakRef<Envelope>>((envelope) =>
    this.#caching.delete(envelope),
  );

  /** See {@link connect}. */
  constructor(options: ConnectOptions | EnvironmentOptions = {}) {
    const transport = new Transport(transportOptions(withEnvironment(options)));
    super(transport, methods(new Checksums(options.checksums ?? true)));
    this.#transport = transport;
  }

  /**
   * Makes a data key that the service keeps; with `returnPlaintext`, the answer has its plaintext.
   */
  override createDataKey(
    request: m.CreateDataKeyRequest & { readonly returnPlaintext: true },
    options?: CallOptions,
  ): Promise<m.GetDataKeyResponse>;
  override createDataKey(
    request: m.CreateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.CreateDataKeyResponse>;
  override createDataKey(
    request: m.CreateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.CreateDataKeyResponse> {
    return super.createDataKey(request, options);
  }

  /**
   * Returns what encrypts values and streams here, under data keys that a key of the service wraps
   * (docs/envelopes.md). Throws a TypeError for what is no key's name.
   */
  envelope(options: EnvelopeOptions): Envelope {
    const envelope = new Envelope(this, options);
    if (options.cache !== undefined) {
      const reference = new WeakRef(envelope);
      this.#caching.add(reference);
      this.#forgotten.register(envelope, reference);
    }
    return envelope;
  }

  /**
   * Takes no more calls, waits for those under way, each of which has its deadline, ends streams,
   * forgets data keys, and leaves no connection. Later calls reject with `CANCELLED`, "The client
   * is closed." Twice is as good as once.
   */
  async close(): Promise<void> {
    await this.#transport.close();
    this.#forget();
  }

  /** {@link close}, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Closes the client without waiting: calls under way reject as later ones do. For `using`. */
  [Symbol.dispose](): void {
    this.#transport.destroy();
    this.#forget();
  }

  #forget(): void {
    for (const envelope of this.#caching) envelope.deref()?.clear();
    this.#caching.clear();
  }
}
