// Refreshes expected_ids.json, the oracle of tokenizer_oracle_test: what Hugging Face's tokenizers
// makes of its texts. Each variant of that file replaces some top-level keys of the tokenizer, and
// keys of its model, to reach other code. To add a case, add its text or variant and run
//   npm install @anush008/tokenizers@0.6.0
//   node make_expected.js TOKENIZER_JSON expected_ids.json > new.json
'use strict';
const fs = require('fs');
const os = require('os');
const path = require('path');
const {Tokenizer} = require('@anush008/tokenizers');

async function expect(config, texts, folder) {
  const file = path.join(folder, 'tokenizer.json');
  fs.writeFileSync(file, JSON.stringify(config));
  const tokenizer = Tokenizer.fromFile(file);
  const result = {ids: [], decoded: []};
  for (const text of texts) {
    const encoding = await tokenizer.encode(text, null, {addSpecialTokens: true});
    result.ids.push(encoding.getIds());
    result.decoded.push(await tokenizer.decode(encoding.getIds(), true));
  }
  return result;
}

async function main() {
  const base = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
  const {texts, variants} = JSON.parse(fs.readFileSync(process.argv[3], 'utf8'));
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'expected-'));
  const lines = [];
  for (const {name, model, replace} of variants) {
    const config = {...base, ...replace, model: {...base.model, ...model}};
    lines.push(JSON.stringify({name, model, replace, ...await expect(config, texts, folder)}));
  }
  fs.rmSync(folder, {recursive: true});
  process.stdout.write(
      '{"texts": ' + JSON.stringify(texts) + ',\n"variants": [\n' + lines.join(',\n') + '\n]}\n');
}
main();
