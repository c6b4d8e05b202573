/**
 * Server reflection (grpc.reflection.v1 and v1alpha): describes what is served here to clients that
 * bring no `.proto` files.
 *
 * - A file is served byte for byte as buf compiled it, with comments, under the name by which
 *   others import it.
 * - Behind a file comes everything that it imports, directly or not.
 * - Nothing of a request outlasts its answer, and a caller that takes no answers is not read from.
 * - A stream ends at the deadline that every call has (`admission.ts`).
 *
 * Knows no service: it describes what is in the descriptor set (`scripts/generate.js`).
 */
import {
  type Server,
  type ServerDuplexStream,
  type ServiceDefinition,
  status,
} from '@grpc/grpc-js';
import {
  fromJSON,
  loadFileDescriptorSetFromBuffer,
  loadSync,
  type MessageTypeDefinition,
} from '@grpc/proto-loader';
import { readDescriptorSet } from '../contract/descriptor-set.ts';

const SERVICES = [
  'grpc.reflection.v1.ServerReflection',
  'grpc.reflection.v1alpha.ServerReflection',
];
/** Names in the contract have fewer than a hundred characters. */
const MAX_REQUEST_BYTES = 1_024;
/** Of what is loaded out of descriptors: fields keep the names that they have in `.proto` files. */
const OPTIONS = { enums: String, defaults: true, oneofs: true };

interface Named {
  readonly name: string;
}

interface Extension extends Named {
  /** A message's full name, after a dot. */
  readonly extendee: string;
  readonly number: number;
}

interface Enum extends Named {
  readonly value: readonly Named[];
}

interface Message extends Named {
  readonly field: readonly Named[];
  readonly oneofDecl: readonly Named[];
  readonly nestedType: readonly Message[];
  readonly enumType: readonly Enum[];
  readonly extension: readonly Extension[];
}

/** google.protobuf.FileDescriptorProto, as far as things are found by it. */
interface FileDescriptor extends Named {
  readonly package: string;
  readonly dependency: readonly string[];
  readonly messageType: readonly Message[];
  readonly enumType: readonly Enum[];
  readonly service: readonly (Named & { readonly method: readonly Named[] })[];
  readonly extension: readonly Extension[];
}

/** A file as it is served, and as it was understood. */
interface ServedFile {
  readonly bytes: Buffer;
  readonly descriptor: FileDescriptor;
}

/** ServerReflectionRequest. */
export interface Request {
  readonly host: string;
  /** Which one of the following there is. */
  readonly message_request?: Exclude<keyof Request, 'host' | 'message_request'>;
  readonly file_by_filename?: string;
  readonly file_containing_symbol?: string;
  readonly file_containing_extension?: {
    readonly containing_type: string;
    readonly extension_number: number;
  };
  readonly all_extension_numbers_of_type?: string;
  readonly list_services?: string;
}

/** What ServerReflectionResponse has besides the request. */
export interface Answer {
  readonly file_descriptor_response?: { readonly file_descriptor_proto: readonly Buffer[] };
  readonly all_extension_numbers_response?: {
    readonly base_type_name: string;
    readonly extension_number: readonly number[];
  };
  readonly list_services_response?: { readonly service: readonly Named[] };
  readonly error_response?: { readonly error_code: status; readonly error_message: string };
}

/** Serves both versions of the protocol; throws when there is no descriptor set. */
export function addReflection(server: Server): void {
  const descriptors = new Descriptors(readDescriptorSet());
  const own = descriptors.setOf((name) => name.startsWith('grpc/reflection/'));
  const definitions = loadFileDescriptorSetFromBuffer(own, OPTIONS);
  for (const service of SERVICES) {
    server.addService(bounded(definitions[service] as ServiceDefinition), {
      ServerReflectionInfo: (call: ServerDuplexStream<Request, object>) => serve(call, descriptors),
    });
  }
}

function serve(call: ServerDuplexStream<Request, object>, descriptors: Descriptors): void {
  call.on('data', (request: Request) => {
    const answer = descriptors.answer(request);
    if (call.write({ valid_host: request.host, original_request: request, ...answer })) return;
    call.pause();
    call.once('drain', () => call.resume());
  });
  call.once('end', () => call.end());
}

/** What cannot be a question is not decoded: it is taken as one that asks for nothing. */
function bounded(definition: ServiceDefinition): ServiceDefinition {
  return Object.fromEntries(
    Object.entries(definition).map(([name, method]) => [
      name,
      {
        ...method,
        requestDeserialize: (bytes: Buffer) =>
          bytes.length > MAX_REQUEST_BYTES ? { host: '' } : method.requestDeserialize(bytes),
      },
    ]),
  );
}

/**
 * FileDescriptorSet whose files stay bytes: decoded and encoded again, a file would lose what the
 * decoder doesn't know.
 */
function fileSet(): MessageTypeDefinition<{ file: Buffer[] }, { file: Buffer[] }> {
  const file = { rule: 'repeated', type: 'bytes', id: 1 };
  const { FileSet } = fromJSON({ nested: { FileSet: { fields: { file } } } }, OPTIONS);
  return FileSet as ReturnType<typeof fileSet>;
}

function readFiles(descriptorSet: Buffer): ServedFile[] {
  const name = 'google.protobuf.FileDescriptorProto';
  const type = loadSync('google/protobuf/descriptor.proto', OPTIONS)[name];
  const { deserialize } = type as MessageTypeDefinition<FileDescriptor, FileDescriptor>;
  return fileSet()
    .deserialize(descriptorSet)
    .file.map((bytes) => ({ bytes, descriptor: deserialize(bytes) }));
}

/** Answers by the files of a FileDescriptorSet, which must have all that they import. */
export class Descriptors {
  readonly #files: ReadonlyMap<string, ServedFile>;
  readonly #services: readonly string[];
  /** By the full name of what a file declares: the file. */
  readonly #symbols = new Map<string, ServedFile>();
  /**
   * By a message's full name, of every message: its extensions' numbers, and the files that declare
   * them.
   */
  readonly #extensions = new Map<string, Map<number, ServedFile>>();

  constructor(descriptorSet: Buffer) {
    const files = readFiles(descriptorSet);
    this.#files = new Map(files.map((file) => [file.descriptor.name, file]));
    this.#services = files.flatMap(({ descriptor }) =>
      descriptor.service.map(({ name }) => fullName(descriptor.package, name)),
    );
    for (const file of this.#files.values()) this.#indexFile(file);
  }

  /** Returns a FileDescriptorSet of some of the files. */
  setOf(isWanted: (name: string) => boolean): Buffer {
    const wanted = [...this.#files.values()].filter(({ descriptor }) => isWanted(descriptor.name));
    return fileSet().serialize({ file: wanted.map(({ bytes }) => bytes) });
  }

  /** Returns what to answer a request with, besides the request. */
  answer(request: Request): Answer {
    switch (request.message_request) {
      case 'list_services':
        return { list_services_response: { service: this.#services.map((name) => ({ name })) } };
      case 'file_by_filename': {
        const { file_by_filename: name = '' } = request;
        return this.#fileAnswer(this.#files.get(name), `file ${name}`);
      }
      case 'file_containing_symbol': {
        const { file_containing_symbol: name = '' } = request;
        return this.#fileAnswer(this.#symbols.get(name), `symbol ${name}`);
      }
      case 'file_containing_extension': {
        const { containing_type: type = '', extension_number: number = 0 } =
          request.file_containing_extension ?? {};
        return this.#fileAnswer(
          this.#extensions.get(type)?.get(number),
          `extension ${number} of ${type}`,
        );
      }
      case 'all_extension_numbers_of_type': {
        const { all_extension_numbers_of_type: type = '' } = request;
        const numbers = this.#extensions.get(type)?.keys();
        if (numbers === undefined) return notFound(`message ${type}`);
        return {
          all_extension_numbers_response: { base_type_name: type, extension_number: [...numbers] },
        };
      }
      default:
        return failure(
          status.INVALID_ARGUMENT,
          `cannot answer the request: it asks for nothing, or has more than ${MAX_REQUEST_BYTES} bytes`,
        );
    }
  }

  #fileAnswer(file: ServedFile | undefined, what: string): Answer {
    if (file === undefined) return notFound(what);
    const closure = new Set([file]);
    // What is added on the way is come to as well.
    for (const { descriptor } of closure) {
      for (const name of descriptor.dependency) {
        const imported = this.#files.get(name);
        if (imported !== undefined) closure.add(imported);
      }
    }
    return {
      file_descriptor_response: { file_descriptor_proto: [...closure].map(({ bytes }) => bytes) },
    };
  }

  #indexFile(file: ServedFile): void {
    const { package: scope, messageType, enumType, service, extension } = file.descriptor;
    for (const message of messageType) this.#indexMessage(scope, message, file);
    for (const each of enumType) this.#indexEnum(scope, each, file);
    for (const each of extension) this.#indexExtension(scope, each, file);
    for (const { name, method } of service) {
      this.#declare(scope, [{ name }], file);
      this.#declare(fullName(scope, name), method, file);
    }
  }

  #indexMessage(scope: string, message: Message, file: ServedFile): void {
    const name = fullName(scope, message.name);
    this.#declare(scope, [message], file);
    this.#declare(name, [...message.field, ...message.oneofDecl], file);
    this.#extensionsOf(name);
    for (const nested of message.nestedType) this.#indexMessage(name, nested, file);
    for (const nested of message.enumType) this.#indexEnum(name, nested, file);
    for (const nested of message.extension) this.#indexExtension(name, nested, file);
  }

  /** An enum's values are names beside it, not in it. */
  #indexEnum(scope: string, each: Enum, file: ServedFile): void {
    this.#declare(scope, [each, ...each.value], file);
  }

  #indexExtension(scope: string, extension: Extension, file: ServedFile): void {
    this.#declare(scope, [extension], file);
    this.#extensionsOf(extension.extendee.replace(/^\./, '')).set(extension.number, file);
  }

  #extensionsOf(message: string): Map<number, ServedFile> {
    const known = this.#extensions.get(message) ?? new Map<number, ServedFile>();
    this.#extensions.set(message, known);
    return known;
  }

  #declare(scope: string, names: readonly Named[], file: ServedFile): void {
    for (const { name } of names) this.#symbols.set(fullName(scope, name), file);
  }
}

function fullName(scope: string, name: string): string {
  return scope === '' ? name : `${scope}.${name}`;
}

function notFound(what: string): Answer {
  return failure(status.NOT_FOUND, `cannot find ${what}: this server does not serve it`);
}

function failure(code: status, message: string): Answer {
  return { error_response: { error_code: code, error_message: message } };
}
