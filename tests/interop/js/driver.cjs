// Drives one upload with tus-js-client.
//
// The first line on stdin is the job, as JSON; each later line is a command: "abort" or "terminate".
// Each line on stdout is an event, as JSON. The process ends when nothing is left to do.
'use strict'

const fs = require('node:fs')
const readline = require('node:readline')
const { PassThrough } = require('node:stream')
const tus = require('tus-js-client')

const TOLD = ['Upload-Offset', 'Upload-Length', 'Upload-Defer-Length', 'Upload-Concat', 'X-HTTP-Method-Override', 'X-Request-ID']

function say(event, facts = {}) {
  process.stdout.write(`${JSON.stringify({ event, ...facts })}\n`)
}

/** What is uploaded: a file, a buffer with its bytes, or a stream that can not tell how long it will be. */
function open(job) {
  if (job.source === 'buffer') return fs.readFileSync(job.path)
  const file = fs.createReadStream(job.path)
  return job.source === 'stream' ? file.pipe(new PassThrough()) : file
}

async function run(job, commands) {
  if (job.terminate) {
    await tus.Upload.terminate(job.terminate, job.options)
    say('terminated')
    return
  }
  const done = new Promise((resolve) => {
    let aborted = false
    let created = 0

    async function abort(terminate) {
      if (aborted) return
      aborted = true
      await upload.abort(terminate)
      say('aborted', { url: upload.url })
      if (!job.again) return resolve()
      job.abortAt = undefined
      upload.start()
    }

    const upload = new tus.Upload(open(job), {
      ...job.options,
      ...(job.urls ? { urlStorage: new tus.FileUrlStorage(job.urls) } : {}),
      ...(job.retry === undefined ? {} : { onShouldRetry: () => job.retry }),
      onBeforeRequest(request) {
        const headers = TOLD.map((name) => [name, request.getHeader(name)]).filter(([, value]) => value !== undefined)
        say('request', { method: request.getMethod(), url: request.getURL(), headers: Object.fromEntries(headers) })
      },
      onAfterResponse(request, response) {
        say('response', { method: request.getMethod(), status: response.getStatus() })
        if (response.getStatus() === 201) created += 1
      },
      onUploadUrlAvailable() {
        say('url', { url: upload.url })
      },
      onChunkComplete(_size, accepted) {
        say('chunk', { accepted })
        // Not before every part has its URL: what a part that is still being created leaves behind is nobody's to resume.
        if (accepted >= job.abortAt && created >= (job.options.parallelUploads ?? 1)) abort(job.abortTerminates ?? false)
      },
      onSuccess() {
        say('success', { url: upload.url })
        resolve()
      },
      onError(error) {
        say('error', { message: error.message, status: error.originalResponse?.getStatus() ?? null })
        resolve()
      },
    })
    commands.on('line', (command) => abort(command === 'terminate'))
    if (!job.urls) return upload.start()
    upload.findPreviousUploads().then((previous) => {
      say('previous', { count: previous.length })
      if (previous.length > 0) upload.resumeFromPreviousUpload(previous[0])
      upload.start()
    })
  })
  await done
}

const lines = readline.createInterface({ input: process.stdin })
lines.once('line', async (line) => {
  try {
    await run(JSON.parse(line), lines)
  } catch (error) {
    say('error', { message: error.message, status: error.originalResponse?.getStatus() ?? null })
  }
  lines.close()
  process.stdin.destroy()
})
