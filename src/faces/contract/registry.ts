/**
 * The contract's messages by name, for what turns them into JSON and back.
 */
import './base64.ts';
import { createFileRegistry, type FileRegistry, fromBinary } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { readDescriptorSet } from './descriptor-set.ts';

let read: FileRegistry | undefined;

/** Returns all messages of the contract. Throws when the descriptors were not generated. */
export function contractRegistry(): FileRegistry {
  read ??= createFileRegistry(fromBinary(FileDescriptorSetSchema, readDescriptorSet()));
  return read;
}
