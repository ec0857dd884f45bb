typedef struct mh_program mh_program;
typedef struct mh_fragments mh_fragments;
typedef struct {
    uint16_t rule;
    uint8_t accept, reason, answer;
    ...;
} mh_verdict;
mh_program *mh_program_load(const uint8_t *bytes, size_t len);
void mh_program_free(mh_program *p);
uint16_t mh_program_rules(const mh_program *p);
mh_verdict mh_judge(const mh_program *p, const mh_facts *f);
mh_verdict mh_judge_later(const mh_program *p, const mh_facts *f);
mh_fragments *mh_fragments_new(void);
void mh_fragments_free(mh_fragments *t);
mh_verdict mh_filter(const mh_program *p, mh_fragments *t, const mh_facts *f, uint64_t now_ns);
