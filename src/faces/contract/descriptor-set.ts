/**
 * The contract as buf compiled it, comments included: one google.protobuf.FileDescriptorSet
 * (`scripts/generate.js`).
 */
import { readFileSync } from 'node:fs';

/** In this folder in `src/` as in `dist/`. */
const DESCRIPTOR_SET = new URL('generated/descriptors.binpb', import.meta.url);

/** Reads the descriptor set. Throws, in words for operators, when it was not generated. */
export function readDescriptorSet(): Buffer {
  try {
    return readFileSync(DESCRIPTOR_SET);
  } catch (cause) {
    const message =
      `cannot serve reflection or HTTP: ${(cause as Error).message}: run \`node ` +
      'scripts/generate.js`, or set KEYWARD_REFLECTION=false and unset KEYWARD_HTTP_LISTEN';
    throw new Error(message, { cause });
  }
}
