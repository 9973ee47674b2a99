"""The engine turns token ids into token ids: scheduler, paged KV blocks, sampling and runners, in a process of its own.

In come prompts as token ids with sampling parameters; the room knows no calls, tenants, texts or replies.
Out go generated token ids, their log-probabilities on request, and the reason each sequence ended.
"""
