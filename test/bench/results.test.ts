/**
 * Writing some sections of the bench's results keeps the others.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BENCHES, benchesNamed } from '../../bench/benches.ts';
import { withSections } from '../../bench/results.ts';

const benches = [{ title: 'One' }, { title: 'Two' }, { title: 'Three' }];
const sectionsOf = (text: string) => text.split(/^(?=## )/m).slice(1);

test('a section that is written replaces its own and leaves the others and the notes', () => {
  const before = '# Bench\n\n## One\n\n1\n\n### Within\n\n1a\n\n## Two\n\n2\n\n## Notes\n\nmine\n';
  const after = withSections(before, benches, new Map([['Two', '## Two\n\nnew']]));
  assert.deepEqual(sectionsOf(after), [
    '## One\n\n1\n\n### Within\n\n1a\n\n',
    '## Two\n\nnew\n\n',
    '## Notes\n\nmine\n',
  ]);
});

test('sections stand in the order of the benches, whichever was measured first', () => {
  const first = withSections('', benches, new Map([['Three', '## Three\n\n3']]));
  const after = withSections(first, benches, new Map([['One', '## One\n\n1']]));
  assert.deepEqual(sectionsOf(after), ['## One\n\n1\n\n', '## Three\n\n3\n']);
});

test('the section of a bench that there is no more goes', () => {
  const after = withSections('## Gone\n\n0\n\n## Two\n\n2\n', benches, new Map());
  assert.deepEqual(sectionsOf(after), ['## Two\n\n2\n']);
});

test('no two benches share a name or a section, and an unknown name is refused by what there is', () => {
  for (const field of ['name', 'title'] as const)
    assert.equal(new Set(BENCHES.map((bench) => bench[field])).size, BENCHES.length);
  assert.throws(() => benchesNamed(['call']), /cannot run bench call: .*calls, /);
});
