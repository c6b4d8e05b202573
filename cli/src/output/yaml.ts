/**
 * Writes values as YAML that means what their JSON means, for readers of YAML 1.1 and of 1.2.
 *
 * - Loaded only where YAML is asked for.
 */
import { Document, isScalar, visit } from 'yaml';
import { isPrintable, printableJson } from './printable.ts';

/** Returns a YAML document of a value that JSON can have. */
export function yamlText(value: unknown): string {
  const document = new Document(value, {
    aliasDuplicateObjects: false,
    compat: 'yaml-1.1',
  });
  // Only a quoted text can have escapes for what would command a terminal.
  visit(document, {
    Scalar(_, scalar) {
      if (!isScalar(scalar) || typeof scalar.value !== 'string') return;
      if (!scalar.value.split('\n').every(isPrintable)) scalar.type = 'QUOTE_DOUBLE';
    },
  });
  return printableJson(document.toString({ lineWidth: 0 }));
}
