import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { readDuration, readTime, writeDuration, writeRoughly } from '../../cli/src/durations.ts';
import { countLine, countOn, progressLine, progressOn } from '../../cli/src/progress.ts';
import type { RewrapJob } from '../../client/src/index.ts';

function job(facts: Partial<RewrapJob> = {}): RewrapJob {
  return {
    name: 'tenants/acme/rewrapJobs/j',
    scope: 'tenants/acme',
    state: 'RUNNING',
    cause: 'REQUEST',
    caller: 'keyward',
    createTime: new Date(0),
    endTime: undefined,
    total: 1000,
    totalIsFinal: true,
    done: 450,
    left: 550,
    failed: 0,
    rate: 62.4,
    timeLeftSeconds: 8.8,
    failures: [],
    paused: false,
    kind: 'DATA_KEYS',
    ...facts,
  };
}

describe('the line of a job', () => {
  const cases: [what: string, facts: Partial<RewrapJob>, line: string][] = [
    ['half done', {}, '[###########..............]   45%  450/1,000  62/s  9s left'],
    [
      'hardly begun, and still looking',
      { total: 7, totalIsFinal: false, done: 0, rate: 0, timeLeftSeconds: undefined },
      '[.........................]    0%  0/7+',
    ],
    [
      'slow, with some that did not open',
      { done: 448, failed: 2, rate: 0.25, timeLeftSeconds: 7500 },
      '[###########..............]   45%  448/1,000  2 failed  0.3/s  2h 05m left',
    ],
    ['standing still', { paused: true }, '[###########..............]   45%  450/1,000  paused'],
    [
      'over, with some that did not open',
      { state: 'PARTIAL', done: 998, failed: 2, left: 0 },
      '[#########################]  100%  998/1,000  2 failed  partial',
    ],
    [
      'without anything to do',
      { state: 'SUCCEEDED', total: 0, done: 0, left: 0, timeLeftSeconds: undefined },
      '[#########################]  100%  0/0  succeeded',
    ],
  ];
  for (const [what, facts, line] of cases) {
    it(`${what}, is ${line}`, () => {
      assert.equal(progressLine(job(facts), 79), line);
    });
  }

  it('fits every width, and has a bar where there is room for one', () => {
    for (let columns = 0; columns < 200; columns++) {
      for (const [, facts] of cases) {
        const line = progressLine(job(facts), columns);
        assert.ok(line.length <= columns, `${line} in ${columns}`);
      }
    }
    assert.equal(progressLine(job(), 60), '45%  450/1,000  62/s  9s left');
    assert.match(progressLine(job(), 200), /^\[#{18}\.{22}\] /);
    assert.match(progressLine(job({ done: 999 }), 200), /\] {3}99% /);
    assert.match(progressLine(job({ done: 1001, failed: 1 }), 200), /^\[#{40}\] {2}100% /);
  });
});

describe('the line of a count', () => {
  const cases: [count: Parameters<typeof countLine>[0], line: string][] = [
    [
      { done: 250_000, total: 1_000_000, elapsedMs: 1000 },
      '[######...................]   25%  250,000/1,000,000  250,000/s  3s left',
    ],
    [
      { done: 1.2e9, total: 4.8e9, elapsedMs: 4000, unit: 'bytes' },
      '[######...................]   25%  1.2 GB/4.8 GB  300 MB/s  12s left',
    ],
    [{ done: 0, total: 10, elapsedMs: 5 }, '[.........................]    0%  0/10'],
    [{ done: 10, total: 10, elapsedMs: 500 }, '[#########################]  100%  10/10  20/s'],
    [{ done: 0, total: 0, elapsedMs: 0 }, '[#########################]  100%  0/0'],
  ];
  for (const [count, line] of cases) {
    it(`of ${count.done} of ${count.total} is ${line}`, () => {
      assert.equal(countLine(count, 79), line);
    });
  }

  it('fits every width', () => {
    for (let columns = 0; columns < 200; columns++)
      for (const [count] of cases) assert.ok(countLine(count, columns).length <= columns);
  });
});

describe('progress', () => {
  function screen(facts: { isTTY?: boolean; columns?: number }) {
    let text = '';
    return {
      ...facts,
      write(more: string) {
        text += more;
      },
      get text() {
        return text;
      },
    };
  }

  it('overwrites its line on a terminal, and leaves it with a line break', () => {
    const terminal = screen({ isTTY: true, columns: 31 });
    const progress = progressOn(terminal);
    progress.show(job());
    progress.show(job({ done: 500 }));
    progress.end();
    assert.equal(
      terminal.text,
      '\r45%  450/1,000  62/s  9s left\u001b[K\r50%  500/1,000  62/s  9s left\u001b[K\n',
    );
  });

  it('takes a terminal that does not know its width for one of 80 columns', () => {
    const terminal = screen({ isTTY: true, columns: 0 });
    progressOn(terminal).show(job());
    assert.ok(terminal.text.length > 60 && terminal.text.length <= 80 + '\r\u001b[K'.length);
  });

  it('of a count is written at its beginning and its end, and now and then between', () => {
    const terminal = screen({ isTTY: true, columns: 80 });
    const progress = countOn(terminal);
    for (let done = 1; done <= 100_000; done++) progress.show(done, 100_000);
    progress.end();
    const written = terminal.text.split('\r').slice(1);
    assert.match(written[0] ?? '', / 1\/100,000/);
    assert.match(written.at(-1) ?? '', / 100% {2}100,000\/100,000.*\n$/);
    assert.ok(written.length < 1000);
  });

  it('writes nothing where there is no terminal, nor a line break for nothing', () => {
    const pipe = screen({});
    const progress = progressOn(pipe);
    progress.show(job());
    progress.end();
    countOn(pipe).show(1, 2);
    const terminal = screen({ isTTY: true, columns: 80 });
    progressOn(terminal).end();
    countOn(terminal).end();
    assert.equal(pipe.text + terminal.text, '');
  });
});

describe('durations and times', () => {
  it('are read exactly or not at all', () => {
    const durations: [string, number][] = [
      ['90d', 7_776_000],
      ['12h', 43_200],
      ['1d12h', 129_600],
      ['30m', 1800],
      ['45s', 45],
      ['0s', 0],
    ];
    for (const [text, seconds] of durations) assert.equal(readDuration(text), seconds);
    for (const text of ['', '90', 'd', '1.5h', '-1d', '12h1d', '1w', ' 1d', '1D', '9999999999d']) {
      assert.equal(readDuration(text), undefined, text);
    }
    const times: [string, string][] = [
      ['2028-02-29T23:59:59Z', '2028-02-29T23:59:59.000Z'],
      ['2027-01-31t12:00:00.25z', '2027-01-31T12:00:00.250Z'],
      ['2027-01-01T00:30:00+01:00', '2026-12-31T23:30:00.000Z'],
    ];
    for (const [text, time] of times) assert.equal(readTime(text)?.toISOString(), time);
    const none = [
      '2027-02-29T00:00:00Z',
      '2027-13-01T00:00:00Z',
      '2027-01-01T24:00:00Z',
      '2027-01-01',
    ];
    for (const text of [...none, '2027-01-01T00:00:00', 'tomorrow', '2027-01-01T00:00:00+1:00']) {
      assert.equal(readTime(text), undefined, text);
    }
  });

  it('are written as they are read, and roughly where nobody wants to know exactly', () => {
    for (const text of ['90d', '36h', '90m', '45s', '0s']) {
      assert.equal(writeDuration(readDuration(text) ?? -1), text);
    }
    const roughly: [number, string][] = [
      [0, '0s'],
      [0.2, '1s'],
      [59.5, '1m 00s'],
      [125, '2m 05s'],
      [7500, '2h 05m'],
      [86_400, '1d 00h'],
      [200_000, '2d 07h'],
    ];
    for (const [seconds, text] of roughly) assert.equal(writeRoughly(seconds), text);
  });
});
