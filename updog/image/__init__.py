"""Images: from verified bytes of packs, deltas or streams to a partition that was read back.

* formats, PURE: :mod:`.index`, :mod:`.delta`, :mod:`.frames`; :mod:`.codec` for streams;
* looking: :mod:`.slot_scan`; deciding, PURE: :mod:`.plan`;
* writing: :mod:`.pipeline` and :mod:`.read_back` for chunks, :mod:`.region` for streams;
* threads: :mod:`.ordered_pool` and :mod:`.prefetch`, which know nothing of images.
"""
