// Pages without the query of the visitor for whom they were made.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { withoutQuery } from '../dist/query.js';

const script = (text) => `<script>self.__next_f.push([1,${JSON.stringify(text).replaceAll('&', '\\u0026')}])</script>`;
const payload = (path, query) => `0:{"P":null,"c":${JSON.stringify(path)},"q":${JSON.stringify(query)},"i":false}\n1:T5,a?b=c`;

test('a page has no query of its address, in any place', () => {
  for (const [path, query, clean] of [
    [['', 'docs?token=1&a=2'], '?token=1&a=2', ['', 'docs']],
    [['', '?token=1'], '', ['', '']],
    [['', 'a b', 'c%3Fd'], '', ['', 'a b', 'c%3Fd']],
    [['', 'a', 'b?x=%22&y='], '?x=%22&y=', ['', 'a', 'b']],
  ]) {
    const text = payload(path, query);
    const page = withoutQuery({ kind: 'APP_PAGE', html: `<p>${script(text)}`, rscData: Buffer.from(text) });
    assert.equal(page.rscData.toString(), payload(clean, ''));
    assert.equal(page.html, `<p>${script(payload(clean, ''))}`);
  }
});

test('bytes that are no text stay, and so do pages without an address', () => {
  const bytes = Buffer.concat([Buffer.from(payload(['', 'a?b=1'], '')), Buffer.from([0xff, 0xfe, 0xc3])]);
  const { rscData } = withoutQuery({ kind: 'APP_PAGE', html: '', rscData: bytes });
  assert.deepEqual(rscData.subarray(-3), Buffer.from([0xff, 0xfe, 0xc3]));
  const page = { kind: 'APP_PAGE', html: '<a href="?x=1">', rscData: Buffer.from('0:["?x=1"]') };
  assert.deepEqual(withoutQuery(page), page);
});

test('a page whose address is divided between scripts is not stored', () => {
  const text = payload(['', 'a?token=1&b=2'], '?token=1&b=2');
  const at = text.indexOf('token=1');
  const html = script(text.slice(0, 20)) + script(text.slice(20, at)) + script(text.slice(at));
  assert.equal(withoutQuery({ kind: 'APP_PAGE', html: html.replace('</script>', '?token=1</script>'), rscData: Buffer.from(text) }), undefined);
});
