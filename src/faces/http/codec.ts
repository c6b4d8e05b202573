/**
 * Messages as protobuf's JSON mapping has them (protobuf.dev, "ProtoJSON format"), from and to
 * their bytes, by the contract's descriptors.
 *
 * Invariants:
 * - a request's JSON becomes the bytes that gRPC would have brought, so that everything behind is
 *   the same for both;
 * - nothing of a request is in an error but the name of a field of the contract: the library's own
 *   texts quote what they could not read.
 */
import {
  type DescMessage,
  type FileRegistry,
  fromBinary,
  fromJsonString,
  type JsonValue,
  toBinary,
  toJson,
  toJsonString,
} from '@bufbuild/protobuf';
import { KeywardError } from '../../errors.ts';
import { contractRegistry } from '../contract/registry.ts';

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** One method's messages as JSON. */
export interface MethodCodec {
  /** Returns the bytes of a request. Throws MALFORMED_REQUEST. */
  fromText(text: Buffer): Buffer;
  /** Returns the JSON of an answer. */
  toText(bytes: Buffer): Buffer;
}

/** Turns the contract's messages into JSON and back. */
export class JsonCodec {
  readonly #registry: FileRegistry;

  /** Throws when the descriptors were not generated. */
  constructor() {
    this.#registry = contractRegistry();
  }

  /** Returns how a method's messages are JSON, by its name, `keyward.v1.KeyService/CreateKey`. */
  method(name: string): MethodCodec {
    const [service = '', own] = name.split('/');
    const method = this.#registry.getService(service)?.methods.find((each) => each.name === own);
    if (method === undefined) throw new Error(`the descriptors have no ${name}`);
    const { input, output } = method;
    const registry = this.#registry;
    return {
      fromText: (text) => fromText(input, text),
      toText: (bytes) => Buffer.from(toJsonString(output, fromBinary(output, bytes), { registry })),
    };
  }

  /** Returns the JSON of a message of that type, by its full name. */
  describe(type: string, bytes: Uint8Array): JsonValue | undefined {
    const schema = this.#registry.getMessage(type);
    const registry = this.#registry;
    return schema && toJson(schema, fromBinary(schema, bytes), { registry });
  }
}

function fromText(input: DescMessage, text: Buffer): Buffer {
  try {
    const bytes = toBinary(input, fromJsonString(input, UTF8.decode(text)));
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  } catch (error) {
    const field = fieldOf(error);
    if (field === undefined && hasOtherMembers(input, text)) throw otherMembers(input);
    throw malformed(field);
  }
}

/** Whether the text is an object with a member that is none of the message's fields. */
function hasOtherMembers({ fields }: DescMessage, text: Buffer): boolean {
  const names = new Set(fields.flatMap(({ name, jsonName }) => [name, jsonName]));
  try {
    const value: unknown = JSON.parse(UTF8.decode(text));
    return (
      typeof value === 'object' &&
      value !== null &&
      Object.keys(value).some((key) => !names.has(key))
    );
  } catch {
    return false;
  }
}

/** Names the fields that there are: the name of the one that there isn't is the caller's text. */
function otherMembers({ fields }: DescMessage): KeywardError {
  const names = fields.map(({ jsonName }) => jsonName).join(', ');
  return new KeywardError('MALFORMED_REQUEST', {
    message: `cannot read the request: it has a member that is none of its fields (${names})`,
  });
}

/** Returns the name of the field that the library could not read, as the proto spells it. */
function fieldOf(error: unknown): string | undefined {
  const { cause } = error as { cause?: { field?: () => { name?: unknown } } };
  const name = typeof cause?.field === 'function' ? cause.field().name : undefined;
  return typeof name === 'string' ? name : undefined;
}

function malformed(field: string | undefined): KeywardError {
  if (field === undefined)
    return new KeywardError('MALFORMED_REQUEST', {
      message:
        'cannot read the request: it is not the JSON form of one message of the type that the ' +
        'method takes',
    });
  const description = 'is not the JSON form of what the field takes';
  return new KeywardError('MALFORMED_REQUEST', {
    message: `cannot read the request: ${field} ${description}`,
    fields: [{ field, description }],
  });
}
