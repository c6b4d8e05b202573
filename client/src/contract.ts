/**
 * The proto files at run time: services and messages as protobufjs makes them.
 *
 * Owns where the files are and how they are loaded. Knows nothing of what the messages mean.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import protobuf from 'protobufjs';

/** The contract's own files, below the folder of all. */
const OWN = 'keyward/v1';

let loaded: protobuf.Root | undefined;

/** Returns the proto files, read once per process, when first needed (about 20 ms). */
function contract(): protobuf.Root {
  if (loaded !== undefined) return loaded;
  const folder = protoFolder();
  const root = new protobuf.Root();
  root.resolvePath = (_, name) => join(folder, name);
  const own = readdirSync(join(folder, OWN)).map((name) => `${OWN}/${name}`);
  loaded = root.loadSync([...own, 'google/rpc/status.proto', 'google/rpc/error_details.proto']);
  loaded.resolveAll();
  return loaded;
}

/** Returns an RPC's messages by its path, as in `/keyward.v1.KeyService/GetKey`. */
export function messagesOf(path: string): { request: protobuf.Type; answer: protobuf.Type } {
  const [, service = '', name = ''] = path.split('/');
  const rpc = contract().lookupService(service).methods[name] as protobuf.Method;
  return {
    request: rpc.resolvedRequestType as protobuf.Type,
    answer: rpc.resolvedResponseType as protobuf.Type,
  };
}

/** The messages that say what failed, as {@link read} returns them. */
interface Details {
  readonly Status: {
    readonly message: string;
    readonly details: readonly { readonly type_url: string; readonly value: Uint8Array }[];
  };
  readonly ErrorInfo: {
    readonly reason: string;
    readonly domain: string;
    readonly metadata: Readonly<Record<string, string>>;
  };
  readonly BadRequest: {
    readonly fieldViolations: readonly { readonly field: string; readonly description: string }[];
  };
  readonly RetryInfo: {
    readonly retryDelay: { readonly seconds: number; readonly nanos: number } | null;
  };
  readonly RequestInfo: { readonly requestId: string; readonly servingData: string };
}

/** Reads a message of google.rpc. Throws for bytes that are none. */
export function read<Name extends keyof Details>(name: Name, bytes: Uint8Array): Details[Name] {
  const type = contract().lookupType(`google.rpc.${name}`);
  return type.toObject(type.decode(bytes), { longs: Number, defaults: true }) as Details[Name];
}

/** Beside the built file, where the build copies them, else in the repository. */
function protoFolder(): string {
  const besideBuild = fileURLToPath(new URL('./proto', import.meta.url));
  return existsSync(besideBuild)
    ? besideBuild
    : fileURLToPath(new URL('../../proto', import.meta.url));
}
