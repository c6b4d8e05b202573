/**
 * The public face of `keyward-client`: {@link connect}, {@link KeywardClient}, and the types of its calls.
 *
 * Owns how a caller says where the service is and who calls, and that every method of the contract is here exactly once.
 * Knows nothing of the wire (`wire.ts`), of deadlines and retries (`call.ts`), and nothing of the server.
 *
 *     using keyward = connect({ address, caFile, certFile, keyFile });
 *     const { ciphertext } = await keyward.encrypt({ name: 'tenants/demo/keys/orders', plaintext });
 */
import { readFileSync } from 'node:fs';
import { type CallOptions, Transport } from './call.ts';
import { Checksums } from './checksums.ts';
import type * as m from './messages.ts';
import { methods } from './wire.ts';

export type { CallOptions } from './call.ts';
export { type FieldViolation, KeywardClientError, type StatusName } from './errors.ts';
export type * from './messages.ts';

/** PEM, as a file's path or as itself. */
type Pem<Name extends string> =
  | ({ readonly [N in `${Name}File`]: string } & { readonly [N in Name]?: never })
  | ({ readonly [N in Name]: string | Uint8Array } & { readonly [N in `${Name}File`]?: never });

/** Where the service is, how it proves itself (`ca`), and who calls (`cert` and `key`). Files are read once. */
export type ConnectOptions = Pem<'ca'> &
  Pem<'cert'> &
  Pem<'key'> & {
    /** `host:port`; an IPv6 address in brackets. */
    readonly address: string;
    /** The name that the service's certificate must have, where it isn't the address's host. */
    readonly serverName?: string;
    /** How long a call may take, retries included, unless the call says otherwise. 10,000 unless given. */
    readonly defaultTimeoutMs?: number;
    /** How often at most a call is tried again, only where that can help; a change is made once all the same. 2 unless given. */
    readonly retries?: number;
    /** Whether bytes are sent with their CRC32C, and answers compared with theirs. Yes unless `false`. */
    readonly checksums?: boolean;
  };

/** How to walk a list. */
export interface ListOptions extends CallOptions {
  /** How many are fetched at a time, 1 to 1,000. 100 unless given. `timeoutMs` is for each page. */
  readonly pageSize?: number;
  /** Which items, as in `state = DISABLED`; the contract has the grammar. All unless given. */
  readonly filter?: string;
}

/**
 * A client of the service at `options.address`. Connects when first used, so this never waits; throws a TypeError for
 * options that make no sense, and what the file system throws for a file that can't be read.
 */
export function connect(options: ConnectOptions): KeywardClient {
  return new KeywardClient(options);
}

/**
 * Typed calls of the three services. Every call has a deadline, and rejects with a `KeywardClientError`, or with a
 * TypeError before anything is sent when an argument is of the wrong type. One client holds one connection and serves
 * any number of calls at once; its owner closes it.
 */
export class KeywardClient {
  readonly #transport: Transport;
  readonly #methods: ReturnType<typeof methods>;

  /** See {@link connect}. */
  constructor(options: ConnectOptions) {
    const { address, serverName, defaultTimeoutMs = 10_000, retries = 2, checksums = true } = options;
    if (typeof address !== 'string' || !/^([^\s:/[\]]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$/.test(address)) {
      throw new TypeError(`address must be host:port, not ${JSON.stringify(address)}`);
    }
    if (!Number.isInteger(retries) || retries < 0) throw new TypeError('retries must be a whole number');
    if (typeof checksums !== 'boolean') throw new TypeError('checksums must be true or false');
    this.#methods = methods(new Checksums(checksums));
    this.#transport = new Transport({
      address,
      serverName,
      defaultTimeoutMs,
      retries,
      ca: pem('ca', options.ca, options.caFile),
      cert: pem('cert', options.cert, options.certFile),
      key: pem('key', options.key, options.keyFile),
    });
  }

  /** Creates a tenant. */
  createTenant(request: m.CreateTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.createTenant, request, options);
  }

  /** Returns one tenant. */
  getTenant(request: m.GetTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.getTenant, request, options);
  }

  /** Returns one page of the tenants; {@link tenants} walks all. */
  listTenants(request: m.ListTenantsRequest = {}, options?: CallOptions): Promise<m.ListTenantsResponse> {
    return this.#transport.call(this.#methods.listTenants, request, options);
  }

  /** Stops all use of a tenant's keys, until {@link enableTenant}. */
  disableTenant(request: m.DisableTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.disableTenant, request, options);
  }

  /** Undoes {@link disableTenant}. */
  enableTenant(request: m.EnableTenantRequest, options?: CallOptions): Promise<m.Tenant> {
    return this.#transport.call(this.#methods.enableTenant, request, options);
  }

  /** Creates a key with its version 1. */
  createKey(request: m.CreateKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.createKey, request, options);
  }

  /** Returns one key. */
  getKey(request: m.GetKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.getKey, request, options);
  }

  /** Returns one page of a tenant's keys; {@link keys} walks all. */
  listKeys(request: m.ListKeysRequest, options?: CallOptions): Promise<m.ListKeysResponse> {
    return this.#transport.call(this.#methods.listKeys, request, options);
  }

  /** Returns one page of a key's versions; {@link keyVersions} walks all. */
  listKeyVersions(
    request: m.ListKeyVersionsRequest,
    options?: CallOptions,
  ): Promise<m.ListKeyVersionsResponse> {
    return this.#transport.call(this.#methods.listKeyVersions, request, options);
  }

  /** Makes a new primary version. */
  rotateKey(request: m.RotateKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.rotateKey, request, options);
  }

  /** Changes a key's description or labels. */
  updateKey(request: m.UpdateKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.updateKey, request, options);
  }

  /** The switch for an incident: stops all use of a key, until {@link enableKey}. */
  disableKey(request: m.DisableKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.disableKey, request, options);
  }

  /** Undoes {@link disableKey}. */
  enableKey(request: m.EnableKeyRequest, options?: CallOptions): Promise<m.Key> {
    return this.#transport.call(this.#methods.enableKey, request, options);
  }

  /** Returns one version of a key. */
  getKeyVersion(request: m.GetKeyVersionRequest, options?: CallOptions): Promise<m.KeyVersion> {
    return this.#transport.call(this.#methods.getKeyVersion, request, options);
  }

  /** Stops all use of one version, until {@link enableKeyVersion}. */
  disableKeyVersion(request: m.DisableKeyVersionRequest, options?: CallOptions): Promise<m.KeyVersion> {
    return this.#transport.call(this.#methods.disableKeyVersion, request, options);
  }

  /** Undoes {@link disableKeyVersion}. */
  enableKeyVersion(request: m.EnableKeyVersionRequest, options?: CallOptions): Promise<m.KeyVersion> {
    return this.#transport.call(this.#methods.enableKeyVersion, request, options);
  }

  /** Encrypts up to 64 KiB. */
  encrypt(request: m.EncryptRequest, options?: CallOptions): Promise<m.EncryptResponse> {
    return this.#transport.call(this.#methods.encrypt, request, options);
  }

  /** Opens what encrypt or generateDataKey returned. Whatever doesn't open is DECRYPTION_FAILED. */
  decrypt(request: m.DecryptRequest, options?: CallOptions): Promise<m.DecryptResponse> {
    return this.#transport.call(this.#methods.decrypt, request, options);
  }

  /** Issues a data key, in plaintext and wrapped. */
  generateDataKey(
    request: m.GenerateDataKeyRequest,
    options?: CallOptions,
  ): Promise<m.GenerateDataKeyResponse> {
    return this.#transport.call(this.#methods.generateDataKey, request, options);
  }

  /** Issues a data key, wrapped only. */
  generateDataKeyWithoutPlaintext(
    request: m.GenerateDataKeyWithoutPlaintextRequest,
    options?: CallOptions,
  ): Promise<m.GenerateDataKeyWithoutPlaintextResponse> {
    return this.#transport.call(this.#methods.generateDataKeyWithoutPlaintext, request, options);
  }

  /** Brings a ciphertext under a key's primary version, and to another encryption context if wanted. */
  reEncrypt(request: m.ReEncryptRequest, options?: CallOptions): Promise<m.ReEncryptResponse> {
    return this.#transport.call(this.#methods.reEncrypt, request, options);
  }

  /** Returns random bytes. */
  generateRandomBytes(
    request: m.GenerateRandomBytesRequest,
    options?: CallOptions,
  ): Promise<m.GenerateRandomBytesResponse> {
    return this.#transport.call(this.#methods.generateRandomBytes, request, options);
  }

  /**
   * Encrypts many at once. Resolves with a result for each request, in their order, when the call itself succeeds,
   * whatever became of the items; those that failed are not tried again.
   */
  batchEncrypt(
    request: m.BatchRequest<m.EncryptRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.EncryptResponse>[]> {
    return this.#transport.call(this.#methods.batchEncrypt, request, options);
  }

  /** Decrypts many at once; see {@link batchEncrypt}. */
  batchDecrypt(
    request: m.BatchRequest<m.DecryptRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.DecryptResponse>[]> {
    return this.#transport.call(this.#methods.batchDecrypt, request, options);
  }

  /** Issues many data keys at once; see {@link batchEncrypt}. */
  batchGenerateDataKey(
    request: m.BatchRequest<m.GenerateDataKeyRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.GenerateDataKeyResponse>[]> {
    return this.#transport.call(this.#methods.batchGenerateDataKey, request, options);
  }

  /** Re-encrypts many at once; see {@link batchEncrypt}. */
  batchReEncrypt(
    request: m.BatchRequest<m.ReEncryptRequest>,
    options?: CallOptions,
  ): Promise<m.BatchResult<m.ReEncryptResponse>[]> {
    return this.#transport.call(this.#methods.batchReEncrypt, request, options);
  }

  /** All tenants, ordered by name, fetched page by page. */
  tenants(options: ListOptions = {}): AsyncGenerator<m.Tenant, void, undefined> {
    return pages(options, async (page) => {
      const { tenants, nextPageToken } = await this.listTenants(page, options);
      return { items: tenants, nextPageToken };
    });
  }

  /** All keys of the tenant `parent`, ordered by name, fetched page by page. */
  keys(parent: string, options: ListOptions = {}): AsyncGenerator<m.Key, void, undefined> {
    return pages(options, async (page) => {
      const { keys, nextPageToken } = await this.listKeys({ parent, ...page }, options);
      return { items: keys, nextPageToken };
    });
  }

  /** All versions of the key `parent`, newest first, fetched page by page. */
  keyVersions(parent: string, options: ListOptions = {}): AsyncGenerator<m.KeyVersion, void, undefined> {
    return pages(options, async (page) => {
      const { keyVersions, nextPageToken } = await this.listKeyVersions({ parent, ...page }, options);
      return { items: keyVersions, nextPageToken };
    });
  }

  /** Cancels the calls in flight; later ones reject with `CANCELLED`, "The client is closed." Twice is as good as once. */
  close(): void {
    this.#transport.close();
  }

  /** {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}

async function* pages<Item>(
  { pageSize = 100, filter = '' }: ListOptions,
  fetch: (page: { pageSize: number; pageToken: string; filter: string }) => Promise<{
    readonly items: readonly Item[];
    readonly nextPageToken: string;
  }>,
): AsyncGenerator<Item, void, undefined> {
  let pageToken = '';
  do {
    const { items, nextPageToken } = await fetch({ pageSize, pageToken, filter });
    yield* items;
    pageToken = nextPageToken;
  } while (pageToken !== '');
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
