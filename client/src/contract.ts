/**
 * The contract at run time: services and messages as protobufjs makes them.
 *
 * Knows nothing of where it is read from (`proto-files.ts`), and of what the messages mean.
 */
import type protobuf from 'protobufjs';
import { loadContract } from './proto-files.ts';

let loaded: protobuf.Root | undefined;

/** Returns the contract, loaded once per process, when first needed. */
function contract(): protobuf.Root {
  if (loaded !== undefined) return loaded;
  loaded = loadContract();
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
