/**
 * Objects of S3, or of what speaks its protocol, encrypted on their way in constant memory.
 *
 * - An object is bound to its bucket and key: one that is put in another's place does not open.
 * - What a reader gets was verified; that nothing is missing, only the end without an error says.
 */
import { pipeline, type Readable } from 'node:stream';
import { GetObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import type { Envelope } from 'keyward-client';

/** Where an object is. */
export interface Place {
  readonly Bucket: string;
  readonly Key: string;
}

const contextOf = ({ Bucket, Key }: Place) => ({ bucket: Bucket, key: Key });
/** `pipeline` has destroyed both streams by then, so that the reader of the second fails. */
const toldByTheStream = () => {};

/** Encrypts and uploads what the stream gives. */
export async function put(s3: S3Client, box: Envelope, place: Place, content: Readable) {
  const sealed = box.encryptStream({ context: contextOf(place) });
  const Body = pipeline(content, sealed, toldByTheStream);
  await new Upload({ client: s3, params: { ...place, Body } }).done();
}

/** Returns a stream of the object's content. */
export async function get(s3: S3Client, box: Envelope, place: Place): Promise<Readable> {
  const { Body } = await s3.send(new GetObjectCommand(place));
  const opened = box.decryptStream({ context: contextOf(place) });
  return pipeline(Body as Readable, opened, toldByTheStream);
}
