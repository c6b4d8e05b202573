/**
 * The public face of `keyward-client`: {@link connect}, {@link KeywardClient}, and the types of its
 * calls.
 *
 * Owns how a caller says where the service is and who calls. The methods are generated, one for
 * each RPC; those are here that the contract's types say too little of. Knows nothing of the wire
 * (`wire.ts`), of deadlines and retries (`call.ts`), and nothing of the server.
 *
 *     using keyward = connect({ address, caFile, certFile, keyFile });
 *     const { ciphertext } = await keyward.encrypt({ name: 'tenants/demo/keys/a', plaintext });
 */
import { readFileSync } from 'node:fs';
import { type CallOptions, type StepUp, type TraceHeaders, Transport } from './call.ts';
import { Checksums } from './checksums.ts';
import { Envelope, type EnvelopeOptions } from './envelope/envelope.ts';
import { Calls } from './generated/calls.ts';
import type * as m from './messages.ts';
import { checked, type Token, TokenSource } from './token.ts';
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
export type { CallOptions, StepUp, TraceHeaders } from './call.ts';
export type { DataKeyCache } from './envelope/data-keys.ts';
export type {
  Binding,
  Envelope,
  EnvelopeOptions,
  FieldOptions,
  Rewrapped,
} from './envelope/envelope.ts';
export { EnvelopeError } from './envelope/errors.ts';
export { type FieldViolation, KeywardError, type StatusName } from './errors.ts';
export type { ListOptions, WalkOptions } from './lists.ts';
export type * from './messages.ts';
export type { Token } from './token.ts';

/** PEM, as a file's path or as itself. */
type Pem<Name extends string> =
  | ({ readonly [N in `${Name}File`]: string } & { readonly [N in Name]?: never })
  | ({ readonly [N in Name]: string | Uint8Array } & { readonly [N in `${Name}File`]?: never });

/** No certificate. */
interface NoPem {
  readonly cert?: never;
  readonly certFile?: never;
  readonly key?: never;
  readonly keyFile?: never;
}

/** Who calls: whom a certificate or a token says, or a token that is bound to the certificate. */
type Caller =
  | (Pem<'cert'> & Pem<'key'> & { readonly token?: Token })
  | (NoPem & { readonly token: Token });

/**
 * Where the service is, how it proves itself (`ca`), and who calls (`cert` and `key`, `token`, or a
 * bound token with both). Files are read once. A `token` that is a function is called when a token
 * is needed: at first, shortly before the one that it gave expires, and once when the service
 * refuses that.
 */
export type ConnectOptions = Pem<'ca'> &
  Caller & {
    /** `host:port`; an IPv6 address in brackets. */
    readonly address: string;
    /** The name that the service's certificate must have, where it isn't the address's host. */
    readonly serverName?: string;
    /**
     * How long a call may take, retries included, unless the call says otherwise. 10,000 unless
     * given.
     */
    readonly defaultTimeoutMs?: number;
    /**
     * How often at most a call is tried again, only where that can help; a change is made once all
     * the same. 2 unless given.
     */
    readonly retries?: number;
    /**
     * Whether bytes are sent with their CRC32C, and answers compared with theirs. Yes unless
     * `false`.
     */
    readonly checksums?: boolean;
    /**
     * Returns a token of a stronger or fresher sign-in by the same person. Called when the service
     * wants one (`STEP_UP_REQUIRED`), once for a call, and of a stream once between two answers.
     * The call is then made again, the same bytes, and its deadline is later by as long as this
     * took. The token is sent with other calls too, until it expires. With a `token` only.
     */
    readonly stepUp?: (wanted: StepUp) => Promise<string>;
    /**
     * Returns the trace context that a call is sent with. Asked when a call begins, in the caller's
     * own asynchronous context.
     */
    readonly traceContext?: () => TraceHeaders;
  };

/**
 * A client of the service at `options.address`. Connects when first used, so this never waits;
 * throws a TypeError for options that make no sense, and what the file system throws for a file
 * that can't be read.
 */
export function connect(options: ConnectOptions): KeywardClient {
  return new KeywardClient(options);
}

/**
 * Typed calls of all services. Every call but those that answer as a stream has a deadline, and
 * rejects with a `KeywardError`, or with a TypeError before anything is sent when an argument
 * is of the wrong type. One client holds one connection and serves any number of calls at once; its
 * owner closes it.
 */
export class KeywardClient extends Calls {
  readonly #transport: Transport;

  /** See {@link connect}. */
  constructor(options: ConnectOptions) {
    const {
      address,
      serverName,
      defaultTimeoutMs = 10_000,
      retries = 2,
      checksums = true,
    } = options;
    if (typeof address !== 'string' || !isAddress(address))
      throw new TypeError(`address must be host:port, not ${JSON.stringify(address)}`);
    if (!Number.isInteger(retries) || retries < 0)
      throw new TypeError('retries must be a whole number');
    if (typeof checksums !== 'boolean') throw new TypeError('checksums must be true or false');
    const transport = new Transport({
      address,
      serverName,
      defaultTimeoutMs,
      retries,
      traceContext: options.traceContext,
      stepUp: options.stepUp,
      ca: pem('ca', options.ca, options.caFile),
      ...callerOf(options),
    });
    super(transport, methods(new Checksums(checksums)));
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
    return new Envelope(this, options);
  }

  /**
   * Cancels the calls in flight; later ones reject with `CANCELLED`, "The client is closed." Twice
   * is as good as once.
   */
  close(): void {
    this.#transport.close();
  }

  /** {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

function isAddress(text: string): boolean {
  const [, port] = /^(?:[^\s:/[\]]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})$/.exec(text) ?? [];
  return port !== undefined && Number(port) > 0 && Number(port) < 65_536;
}

/** A key without a certificate, or the other way round, is a mistake, with a token or without. */
function callerOf(options: ConnectOptions) {
  const { cert, certFile, key, keyFile, token } = options;
  if (typeof token === 'string') checked(token);
  else if (token !== undefined && typeof token !== 'function')
    throw new TypeError('token must be a string or a function');
  const isBare = [cert, certFile, key, keyFile].every((given) => given === undefined);
  return {
    token: token === undefined ? undefined : new TokenSource(token),
    identity:
      isBare && token !== undefined
        ? undefined
        : { cert: pem('cert', cert, certFile), key: pem('key', key, keyFile) },
  };
}

function pem(
  name: string,
  text: string | Uint8Array | undefined,
  file: string | undefined,
): string | Uint8Array {
  if (text !== undefined) return text;
  if (file === undefined) throw new TypeError(`${name} or ${name}File must be given`);
  return readFileSync(file);
}
